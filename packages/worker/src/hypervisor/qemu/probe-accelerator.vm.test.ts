import assert from "node:assert/strict";
import { readFile, stat } from "node:fs/promises";
import { test } from "node:test";
import { tryCreateKvmMachine } from "#host/kernel/libc.ts";
import { examineQemu } from "./examine-qemu.ts";
import { kernelProbe } from "#images/kernel/named-kernel.ts";
import { imageStore } from "../../open-worker.ts";
import { accessFor, type KvmAccess, processorFeature } from "../kvm-access.ts";
import { probeAccelerator, type ProbeResult } from "./probe-accelerator.ts";

const program = "qemu-system-x86_64";
const tcg = { program, accelerator: "tcg", processor: "" } as const;
const kvm = { ...tcg, accelerator: "kvm", kvmAccess: { by: "descriptor" } } as const;
const kvmFound = { usable: true, access: kvm.kvmAccess, reason: "the processor has svm" } as const;
const isRoot = process.getuid?.() === 0;
const processorRunsGuests = processorFeature(await readFile("/proc/cpuinfo", "utf8")) !== undefined;
const noDevice = tryCreateKvmMachine("/dev/kvm");
const groupOfDevice = isRoot && noDevice === undefined ? await accessByGroup() : undefined;

/** The access of a QEMU that takes no open device. */
async function accessByGroup(): Promise<KvmAccess | undefined> {
  const { gid, mode } = await stat("/dev/kvm");
  return accessFor({ help: "", root: true, gid, mode });
}

test("probe: a guest under emulation reaches 64-bit mode and computes", async () => {
  const { works, detail } = await probeAccelerator(tcg);
  assert.ok(works, detail);
  assert.match(detail, /^a probe guest ran in \d+ ms$/);
});

test("probe: a guest that computes nothing fails it", async () => {
  // 0xf4 is hlt.
  const stopped = await probeAccelerator(tcg, { firmware: Buffer.alloc(65_536, 0xf4), timeoutMs: 500 });
  assert.deepEqual(stopped, { works: false, detail: "a probe guest did not end within 500 ms" });
  // 0xe6f4 is a write of al, which is 0 after a reset, to port 0xf4: an end with a wrong number.
  const wrong = await probeAccelerator(tcg, { firmware: Buffer.alloc(65_536, Buffer.from([0xe6, 0xf4])) });
  assert.equal(wrong.works, false);
  assert.match(wrong.detail, /^a probe guest did not run: QEMU exited with 1 after \d+ ms/);
});

test(
  "probe: a QEMU without rights uses KVM by the descriptor that it inherits",
  { skip: noDevice === undefined ? false : `/dev/kvm creates no machine here (${noDevice})` },
  async () => {
    const { works, detail } = await probeAccelerator(kvm);
    assert.ok(works, detail);
  },
);

test(
  "probe: a QEMU that may not open KVM fails it with QEMU's own words",
  { skip: !isRoot ? "only root starts QEMU as another user" : noDevice === "ENOENT" ? "there is no /dev/kvm" : false },
  async () => {
    const { works, detail } = await probeAccelerator({ ...kvm, kvmAccess: { by: "user" } });
    assert.equal(works, false);
    assert.match(detail, /Could not access KVM kernel module: Permission denied/);
  },
);

test(
  "probe: a QEMU without rights but with the device's group opens KVM itself",
  {
    skip: noDevice !== undefined || groupOfDevice === undefined ? "no group but root's may open /dev/kvm here" : false,
  },
  async () => {
    const { works, detail } = await probeAccelerator({ ...kvm, kvmAccess: groupOfDevice ?? assert.fail() });
    assert.ok(works, detail);
  },
);

/** A copy of Debian's kernel, as a file that an operator names. */
async function namedKernel(): Promise<string> {
  const imagesDirectory = process.env["OPENSANDBOX_IMAGES_DIR"] ?? "/var/lib/opensandbox/images";
  return (await imageStore({ imagesDirectory }).provide("minimal")).kernel;
}

const works = noDevice === undefined && processorRunsGuests ? "kvm" : "tcg";

test("probe: a kernel that an operator names boots and runs its first program", async () => {
  const kernel = await kernelProbe(await namedKernel());
  const result = await probeAccelerator(works === "kvm" ? kvm : tcg, { kernel });
  assert.ok(result.works, result.detail);
  assert.match(result.detail, /^the guest kernel \/.*\/vmlinux ran in \d+ ms$/);
});

test("probe: a named kernel that does not boot is refused with its last words", async () => {
  const kernel = await kernelProbe(await namedKernel());
  // Without a program to start, the kernel panics, and a panic is a reset.
  const broken = { ...kernel, initramfs: Buffer.alloc(0) };
  const refused =
    works === "kvm"
      ? /^KVM does not work here: .*Kernel panic/
      : /^The guest kernel \/.*\/vmlinux does not boot: .*Kernel panic/;
  await assert.rejects(examineQemu({ program, wanted: works, kernel: broken }), (error: Error) => {
    assert.match(error.message, refused);
    return true;
  });
});

test("auto takes KVM when a guest has run under it, else emulation, and says why", async () => {
  const examine = async (result: ProbeResult) =>
    await examineQemu({
      ...{ program, wanted: "auto" },
      probe: async () => await Promise.resolve(result),
      findKvm: async () => await Promise.resolve(kvmFound),
    });
  const chosen = await examine({ works: true, detail: "a probe guest ran in 9 ms" });
  assert.equal(chosen.accelerator, "kvm");
  assert.deepEqual(chosen.kvmAccess, { by: "descriptor" });
  assert.equal(chosen.reason, "the processor has svm; a probe guest ran in 9 ms");
  const refused = await examine({ works: false, detail: "QEMU exited with 1" });
  assert.equal(refused.accelerator, "tcg");
  assert.equal(refused.kvmAccess, undefined);
  assert.equal(refused.reason, "the processor has svm; QEMU exited with 1");
});

test("KVM that was asked for and runs no guest is an error that names the remedy", async () => {
  const fix = "type: sudo usermod -aG kvm ada, then log in again";
  const findKvm = async () =>
    await Promise.resolve({ usable: false, reason: "user ada may not open /dev/kvm", fix } as const);
  await assert.rejects(examineQemu({ program, wanted: "kvm", findKvm }), {
    code: "unavailable",
    message: `KVM does not work here: user ada may not open /dev/kvm. To use it, ${fix}. Or use OPENSANDBOX_ACCEL=tcg`,
  });
  const auto = await examineQemu({ program, wanted: "auto", findKvm });
  assert.deepEqual([auto.accelerator, auto.fix], ["tcg", fix]);
});
