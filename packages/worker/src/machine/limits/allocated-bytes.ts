import type { Stats } from "node:fs";
import { lstat } from "node:fs/promises";
import { join } from "node:path";
import { namesIn } from "#host/storage/names-in.ts";
import { imageFiles } from "../machine-files.ts";

/** Names of the files in a machine's directory that come from its image. */
const ofImages: ReadonlySet<string> = new Set([
  ...[imageFiles.kernel, imageFiles.initramfs, imageFiles.memoryBase],
  ...imageFiles.disks.map(({ base }) => base),
]);

/** The unit of `blocks` (stat(2)) on every file system. */
const blockBytes = 512;

/**
 * Bytes of the disk that the files of these directories take, holes left out. A file with several names counts once, and
 * files of images and of the snapshots in the directory `except` do not count.
 */
export async function allocatedBytes(
  directories: readonly string[],
  { except }: { readonly except: string },
): Promise<number> {
  const counted = new Set<string>();
  for (const template of await namesIn(except)) {
    for (const { stats } of await filesIn(join(except, template))) counted.add(idOf(stats));
  }
  let bytes = 0;
  for (const directory of directories) {
    for (const { name, stats } of await filesIn(directory)) {
      const id = idOf(stats);
      if (ofImages.has(name) || counted.has(id)) continue;
      counted.add(id);
      bytes += stats.blocks * blockBytes;
    }
  }
  return bytes;
}

function idOf({ dev, ino }: Stats): string {
  return `${dev} ${ino}`;
}

/** The regular files of a directory. Files may vanish meanwhile. */
async function filesIn(directory: string): Promise<{ readonly name: string; readonly stats: Stats }[]> {
  const found = await Promise.all(
    (await namesIn(directory)).map(async (name) => {
      const stats = await lstat(join(directory, name)).catch(() => undefined);
      return stats?.isFile() ? [{ name, stats }] : [];
    }),
  );
  return found.flat();
}
