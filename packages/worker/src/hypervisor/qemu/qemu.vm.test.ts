import assert from "node:assert/strict";
import { chmod, mkdtemp, open, readdir, readlink, realpath, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createOverlay } from "#disks/qcow2.ts";
import { provideZeroMemory } from "#machine/machine-files.ts";
import { imageStore } from "../../open-worker.ts";
import type { DiskAttachment, VmSpec } from "../hypervisor.ts";
import { type ContractStand, hypervisorContract, layerOf } from "../hypervisor-contract.ts";
import { examineQemu } from "./examine-qemu.ts";
import { qemuHypervisor } from "./qemu.ts";

const imagesDirectory = process.env["OPENSANDBOX_IMAGES_DIR"] ?? "/var/lib/opensandbox/images";
const diskBytes = 2 ** 20;

/** VMs whose kernel starts and whose initramfs finds no root, which is enough for a contract. */
async function stand(): Promise<ContractStand> {
  const { kernel, initramfs } = await imageStore({ imagesDirectory }).provide("minimal");
  const directory = await mkdtemp(join(tmpdir(), "osb-qemu-"));
  await chmod(directory, 0o700);
  const memoryBase = await provideZeroMemory(directory, 256);
  async function makeDisk(at: string, name: string): Promise<DiskAttachment> {
    const base = join(at, `${name}.base`);
    await using file = await open(base, "wx");
    await file.truncate(diskBytes);
    const layer = join(at, `${name}-1.qcow2`);
    await createOverlay(layer, diskBytes);
    return { name, base, layers: [layer] };
  }
  return {
    hypervisor: qemuHypervisor(await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" })),
    directory,
    async newSpec({ disks = false, hotplugMib = 0 } = {}): Promise<VmSpec> {
      const own = await mkdtemp(join(directory, "vm-"));
      // A machine's files are in its directory, which is how its process is found.
      const files = { kernel, initramfs, memoryBase };
      const linked = async (name: keyof typeof files): Promise<string> => {
        await symlink(files[name], join(own, name));
        return join(own, name);
      };
      return {
        directory: own,
        ...{ vcpus: 1, memoryMib: 256, hotplugMib },
        ...{
          kernel: await linked("kernel"),
          initramfs: await linked("initramfs"),
          memoryBase: await linked("memoryBase"),
        },
        bootArguments: ["console=ttyS0", "panic=-1"],
        disks: disks ? [await makeDisk(own, "first"), await makeDisk(own, "second")] : [],
        network: { kind: "none" },
      };
    },
    async makeLayer(spec, disk, number) {
      const file = layerOf(spec, disk, number);
      await createOverlay(file, diskBytes);
      return file;
    },
    ending: {
      // The initramfs powers off when it finds no disk, and says so.
      shutdown: (spec) => ({ spec, console: /cannot boot: there is no disk/ }),
      panicked: (spec) => ({
        spec: { ...spec, bootArguments: [...spec.bootArguments, "rdinit=/nonexistent"] },
        console: /Kernel panic/,
      }),
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

hypervisorContract("qemu", stand);

test("qemu: a command line that QEMU refuses is an error with QEMU's own words", async () => {
  await using standing = await stand();
  const spec = { ...(await standing.newSpec()), kernel: "/nonexistent/vmlinuz" };
  await assert.rejects(standing.hypervisor.boot(spec, new AbortController().signal), /vmlinuz/);
});

test("qemu: its process has the descriptors that it was handed, its own files, and nothing else of the host", async () => {
  await using standing = await stand();
  const spec = await standing.newSpec();
  const { directory, memoryBase, kernel, initramfs } = spec;
  await using vm = await standing.hypervisor.boot(spec, new AbortController().signal);
  const folder = `/proc/${vm.pid}/fd`;
  const descriptors = await Promise.all((await readdir(folder)).map(async (fd) => await readlink(join(folder, fd))));
  const count = (pattern: RegExp): number => descriptors.filter((file) => pattern.test(file)).length;
  const kvm = /^(\/dev\/kvm|anon_inode:kvm-(vm|vcpu:\d+|vcpu-stats:\d+|vm-stats|device.*))$/;
  const own = [/^\/dev\/(null|urandom)$/, /^anon_inode:\[(eventfd|signalfd|eventpoll|io_uring|timerfd)\]$/, /^socket:/];
  const links = [memoryBase, kernel, initramfs];
  const files = [join(directory, "qemu.log"), ...(await Promise.all(links.map((file) => realpath(file))))];
  const unexpected = descriptors.filter(
    (file) => !files.includes(file) && ![...own, kvm].some((pattern) => pattern.test(file)),
  );
  assert.deepEqual(unexpected, []);
  // The monitor's listener and its client, and the agent's listener.
  assert.equal(count(/^socket:/), 3);
  const { accelerator } = await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" });
  assert.equal(count(/^\/dev\/kvm$/) > 0, accelerator === "kvm");
});
