import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runCommand } from "#host/run-command.ts";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { cpioArchive, type CpioEntry } from "#images/cpio.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import type { Kit } from "#images/kit.ts";

/** Drivers that the init script may load; each finds what it needs in a directory of its name. */
const drivers = ["virtio_blk", "virtio_net", "virtio_rng", "vmw_vsock_virtio_transport", "virtio_mem"];

/** The file system that a machine boots into: finds the disks and starts the guest agent's init. Path of the archive. */
export async function provideInitramfs(source: ImageSource, kit: Kit, { signal }: BuildOptions): Promise<string> {
  const init = join(source.recipesDirectory, "initramfs", "init");
  const { directory } = await provideArtifact({
    kind: "initramfs",
    ...artifactPlace(source),
    inputs: { kit: kit.id, drivers, init: await hashOfFile(init) },
    needMib: 16,
    signal,
    build: async (target) => {
      const entries: CpioEntry[] = [
        ...["bin", "dev", "modules", "newroot", "proc"].map(directoryEntry),
        { path: "init", kind: "file", mode: 0o755, content: await readFile(init) },
        { path: "bin/busybox", kind: "file", mode: 0o755, content: await readFile(kit.busybox) },
        { path: "bin/sh", kind: "symlink", mode: 0o777, content: Buffer.from("busybox") },
      ];
      entries.push(...(await driverEntries(kit, drivers, signal)));
      // Not compressed: unpacking costs the guest more than reading.
      await writeFile(join(target, "initramfs.cpio"), cpioArchive(entries));
      return { kernelVersion: kit.kernelVersion };
    },
  });
  return join(directory, "initramfs.cpio");
}

/** For each driver a directory below `modules`, with the modules that it needs, named in the order of their loading. */
export async function driverEntries(
  kit: Kit,
  names: readonly string[],
  signal: AbortSignal | undefined,
): Promise<readonly CpioEntry[]> {
  const entries: CpioEntry[] = [];
  const index = await readFile(join(kit.modules, kit.kernelVersion, "modules.dep"), "utf8");
  for (const driver of names) {
    entries.push(directoryEntry(`modules/${driver}`));
    for (const [position, module] of loadOrder(index, driver).entries()) {
      const content = await unpackedModule(join(kit.modules, kit.kernelVersion, module), kit.busybox, signal);
      entries.push({ path: `modules/${driver}/${position}.ko`, kind: "file", mode: 0o644, content });
    }
  }
  return entries;
}

/**
 * The modules of `driver` and of all it depends on, in the order in which they must be loaded.
 * `index` is the text of modules.dep, whose lines name what a module needs, the first to load at the end.
 */
export function loadOrder(index: string, driver: string): readonly string[] {
  for (const line of index.split("\n")) {
    const [module = "", needed = ""] = line.split(":");
    const name = module.replace(/^.*\//, "").replace(/\.ko(\.xz)?$/, "");
    // The kernel takes - and _ for the same thing in a module's name.
    if (name.replaceAll("-", "_") !== driver) continue;
    return [...needed.split(" ").filter(Boolean).toReversed(), module];
  }
  throw new SandboxError("internal", `the kernel has no module ${driver}`);
}

// Base64 because a command's output is text.
async function unpackedModule(file: string, busybox: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const options = signal === undefined ? {} : { signal };
  const script = `"$0" unxz -c "$1" | "$0" base64`;
  const text = await runCommand("unpack a kernel module", ["sh", "-c", script, busybox, file], options);
  return Buffer.from(text, "base64");
}

function directoryEntry(path: string): CpioEntry {
  return { path, kind: "directory", mode: 0o755 };
}
