import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { holdDirectories } from "#host/storage/directory-lock.ts";
import { recordUse } from "#host/storage/last-use.ts";
import type { BootFiles, ProvideBootFiles } from "./host.ts";

/** Files to boot from that no collector removes until they are disposed. */
export interface HeldBootFiles extends Disposable {
  readonly files: BootFiles;
}

/** Provides the files and holds them. Dispose it when the machine has links of its own to them. */
export async function holdBootFiles(
  provide: ProvideBootFiles,
  ...[request, onProgress, signal]: Parameters<ProvideBootFiles>
): Promise<HeldBootFiles> {
  for (;;) {
    const files = await provide(request, onProgress, signal);
    const hold = await holdDirectories(directoriesOf(files), signal);
    // Otherwise a collector was faster, and the missing files are built again.
    if (hold !== undefined) return { files, [Symbol.dispose]: () => hold[Symbol.dispose]() };
  }
}

export function recordUseOf(files: BootFiles): void {
  for (const directory of directoriesOf(files)) recordUse(directory);
}

export function areAllThere(files: BootFiles): boolean {
  return directoriesOf(files).every((directory) => existsSync(directory));
}

/** The directories in the cache of images that hold the files. */
function directoriesOf({ kernel, initramfs, rootfs, workspace, agentDisk }: BootFiles): readonly string[] {
  return [...new Set([kernel, initramfs, rootfs, workspace, agentDisk].map(dirname))];
}
