import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runCommand } from "#host/run-command.ts";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { cpioArchive, type CpioEntry } from "#images/cpio.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import type { Kit } from "#images/kit.ts";

/** Drivers that the init script may load, each from a directory of its name. */
const drivers = ["virtio_blk", "virtio_net", "virtio_rng", "vmw_vsock_virtio_transport", "virtio_mem"];

/**
 * Builds the initramfs when it is missing and returns the path of the archive. A machine boots into it; its init finds
 * the disks and starts the guest agent's init.
 */
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
      // The archive is not compressed, because the guest reads faster than it decompresses.
      await writeFile(join(target, "initramfs.cpio"), cpioArchive(entries));
      return { kernelVersion: kit.kernelVersion };
    },
  });
  return join(directory, "initramfs.cpio");
}

/**
 * For each driver a directory below `modules` with its modules, which are named in load order. A driver that is part of
 * the kernel has an empty directory, and so has every driver of a kernel without a module tree.
 */
export async function driverEntries(
  kit: Kit,
  names: readonly string[],
  signal: AbortSignal | undefined,
): Promise<readonly CpioEntry[]> {
  const entries: CpioEntry[] = [];
  const read = async (name: string): Promise<string | undefined> =>
    await readFile(join(kit.modules, kit.kernelVersion, name), "utf8").catch(() => undefined);
  const index = await read("modules.dep");
  const builtIn = (await read("modules.builtin")) ?? "";
  for (const driver of names) {
    entries.push(directoryEntry(`modules/${driver}`));
    if (index === undefined || isBuiltIn(builtIn, driver)) continue;
    for (const [position, module] of loadOrder(index, driver).entries()) {
      const content = await unpackedModule(join(kit.modules, kit.kernelVersion, module), kit.busybox, signal);
      entries.push({ path: `modules/${driver}/${position}.ko`, kind: "file", mode: 0o644, content });
    }
  }
  return entries;
}

/**
 * The module of `driver` and the modules that it depends on, in load order. `index` is the text of modules.dep: each
 * line names a module and its dependencies, and the last dependency is loaded first.
 */
export function loadOrder(index: string, driver: string): readonly string[] {
  for (const line of index.split("\n")) {
    const [module = "", needed = ""] = line.split(":");
    if (driverOf(module) !== driver) continue;
    return [...needed.split(" ").filter(Boolean).toReversed(), module];
  }
  throw new SandboxError("internal", `the guest kernel has no module ${driver}`);
}

/** `builtIn` is the text of modules.builtin, which names the modules that are part of the kernel. */
function isBuiltIn(builtIn: string, driver: string): boolean {
  return builtIn.split("\n").some((module) => driverOf(module) === driver);
}

/** The name of a module by its file. The kernel makes no difference between - and _. */
function driverOf(module: string): string {
  return module
    .replace(/^.*\//, "")
    .replace(/\.ko(\.xz|\.zst)?$/, "")
    .replaceAll("-", "_");
}

// Base64, since the output of a command is read as text.
async function unpackedModule(file: string, busybox: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
  if (file.endsWith(".ko")) return await readFile(file);
  if (file.endsWith(".zst")) return zstdDecompressSync(await readFile(file));
  const options = signal === undefined ? {} : { signal };
  const script = `"$0" unxz -c "$1" | "$0" base64`;
  const text = await runCommand("unpack a kernel module", ["sh", "-c", script, busybox, file], options);
  return Buffer.from(text, "base64");
}

function directoryEntry(path: string): CpioEntry {
  return { path, kind: "directory", mode: 0o755 };
}
