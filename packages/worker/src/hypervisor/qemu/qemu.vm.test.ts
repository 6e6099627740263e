import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, readlink, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { provideZeroMemory } from "#machine/machine-files.ts";
import { imageStore } from "../../open-worker.ts";
import { type ContractStand, hypervisorContract } from "../hypervisor-contract.ts";
import { examineQemu } from "./examine-qemu.ts";
import { qemuHypervisor } from "./qemu.ts";

const imagesDirectory = process.env["OPENSANDBOX_IMAGES_DIR"] ?? "/var/lib/opensandbox/images";

/** A machine without disks: the kernel starts and the initramfs finds no root, which is enough for a contract. */
async function stand(): Promise<ContractStand> {
  const { kernel, initramfs } = await imageStore({ imagesDirectory }).provide("minimal");
  const directory = await mkdtemp(join(tmpdir(), "osb-qemu-"));
  await chmod(directory, 0o700);
  return {
    hypervisor: qemuHypervisor(await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" })),
    spec: {
      directory,
      vcpus: 1,
      memoryMib: 256,
      hotplugMib: 0,
      memoryBase: await provideZeroMemory(directory, 256),
      kernel,
      initramfs,
      bootArguments: ["console=ttyS0", "panic=-1"],
      disks: [],
      network: { kind: "none" },
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

hypervisorContract("qemu", stand);

test("qemu: a guest that panics is noticed, and its console can still be read", async () => {
  await using standing = await stand();
  // Without a first program, and without a disk that could have one, there is nothing else left to do.
  const bootArguments = [...standing.spec.bootArguments, "rdinit=/nonexistent"];
  const spec = { ...standing.spec, bootArguments };
  await using machine = await standing.hypervisor.boot(spec, new AbortController().signal);
  const { reason } = await machine.exited;
  assert.equal(reason, "panicked");
  assert.match(await machine.console(), /Kernel panic/);
});

test("qemu: a guest that powers off has not panicked, and says on its console why", async () => {
  await using standing = await stand();
  await using machine = await standing.hypervisor.boot(standing.spec, new AbortController().signal);
  const { reason } = await machine.exited;
  assert.equal(reason, "shutdown");
  assert.match(await machine.console(), /cannot boot: there is no disk/);
});

test("qemu: a command line that QEMU refuses is an error with QEMU's own words", async () => {
  await using standing = await stand();
  const spec = { ...standing.spec, kernel: "/nonexistent/vmlinuz" };
  await assert.rejects(standing.hypervisor.boot(spec, new AbortController().signal), /vmlinuz/);
});

test("qemu: its process has the descriptors that it was handed, its own files, and nothing else of the host", async () => {
  await using standing = await stand();
  const { directory, kernel, initramfs } = standing.spec;
  await using machine = await standing.hypervisor.boot(standing.spec, new AbortController().signal);
  const folder = `/proc/${machine.pid}/fd`;
  const open = await Promise.all((await readdir(folder)).map(async (fd) => await readlink(join(folder, fd))));
  const count = (pattern: RegExp): number => open.filter((file) => pattern.test(file)).length;
  const kvm = /^(\/dev\/kvm|anon_inode:kvm-(vm|vcpu:\d+|vcpu-stats:\d+|vm-stats|device.*))$/;
  const own = [/^\/dev\/(null|urandom)$/, /^anon_inode:\[(eventfd|signalfd|eventpoll|io_uring|timerfd)\]$/, /^socket:/];
  const files = [join(directory, "qemu.log"), standing.spec.memoryBase, kernel, initramfs];
  const unexpected = open.filter(
    (file) => !files.includes(file) && ![...own, kvm].some((pattern) => pattern.test(file)),
  );
  assert.deepEqual(unexpected, []);
  // The monitor's listener and its client, and the agent's listener.
  assert.equal(count(/^socket:/), 3);
  const { accelerator } = await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" });
  assert.equal(count(/^\/dev\/kvm$/) > 0, accelerator === "kvm");
});
