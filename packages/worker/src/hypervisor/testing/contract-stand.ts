import { chmod, mkdtemp, open, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createOverlay } from "#disks/qcow2.ts";
import { provideZeroMemory } from "#machine/machine-files.ts";
import { imageStore } from "../../open-worker.ts";
import type { DiskAttachment, Hypervisor, VmSpec } from "../hypervisor.ts";
import { type ContractStand, layerOf } from "../hypervisor-contract.ts";

const imagesDirectory = process.env["OPENSANDBOX_IMAGES_DIR"] ?? "/var/lib/opensandbox/images";
const diskBytes = 2 ** 20;

/** VMs whose kernel starts and whose initramfs finds no root, which is enough for a contract. Needs the image minimal. */
export async function contractStand(hypervisor: Hypervisor): Promise<ContractStand> {
  const { kernel, initramfs } = await imageStore({ imagesDirectory }).provide("minimal");
  const directory = await mkdtemp(join(tmpdir(), `osb-${hypervisor.name}-`));
  await chmod(directory, 0o700);
  async function makeDisk(at: string, name: string): Promise<DiskAttachment> {
    const base = join(at, `${name}.base`);
    await using file = await open(base, "wx");
    await file.truncate(diskBytes);
    const layer = join(at, `${name}-1.qcow2`);
    await createOverlay(layer, diskBytes);
    return { name, base, layers: [layer] };
  }
  return {
    hypervisor,
    directory,
    async newSpec({ disks = false, hotplugMib = 0 } = {}): Promise<VmSpec> {
      const own = await mkdtemp(join(directory, "vm-"));
      const baseMib = hypervisor.restoring?.baseMib?.({ memoryMib: 256, hotplugMib }) ?? 256;
      const memoryBase = await provideZeroMemory(directory, baseMib);
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
