import { lstat, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";

/** A name of a file, with the place that the file takes. */
export interface FileUse {
  /** Identifies the file on this host; hard links share it. */
  readonly inode: string;
  /** Allocated bytes: holes take none. */
  readonly bytes: number;
  /** All names that the file has on its file system, wherever they are. */
  readonly links: number;
  /** The target of a symbolic link. */
  readonly target?: string;
}

/** Files examined at the same time. */
const atOnce = 64;

/** Every name below a directory, the directories themselves included. What is removed meanwhile is left out. */
export async function filesBelow(directory: string): Promise<readonly FileUse[]> {
  const entries = await orIfGone(readdir(directory, { recursive: true, withFileTypes: true }), []);
  const paths = [directory, ...entries.map(({ parentPath, name }) => join(parentPath, name))];
  const found: FileUse[] = [];
  for (let first = 0; first < paths.length; first += atOnce) {
    const some = await Promise.all(paths.slice(first, first + atOnce).map(useOf));
    found.push(...some.filter((use) => use !== undefined));
  }
  return found;
}

/** Allocated bytes of the files, each counted once. `counted` remembers files across calls. */
export function allocatedBytes(files: Iterable<FileUse>, counted = new Set<string>()): number {
  let sum = 0;
  for (const { inode, bytes } of files) {
    if (counted.has(inode)) continue;
    counted.add(inode);
    sum += bytes;
  }
  return sum;
}

async function useOf(path: string): Promise<FileUse | undefined> {
  const stats = await orIfGone(lstat(path), undefined);
  if (stats === undefined) return undefined;
  const { dev, ino, blocks, nlink } = stats;
  // A directory has a link from each directory in it, and one name.
  const links = stats.isDirectory() ? 1 : nlink;
  const target = stats.isSymbolicLink() ? await orIfGone(readlink(path), "") : undefined;
  return { inode: `${dev}:${ino}`, bytes: blocks * 512, links, ...(target === undefined ? {} : { target }) };
}

async function orIfGone<Value, Other>(promise: Promise<Value>, otherwise: Other): Promise<Value | Other> {
  try {
    return await promise;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return otherwise;
    throw error;
  }
}
