import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";

/**
 * The file operations whose order decides what a power cut leaves. Code that must survive one takes them as a value,
 * so that a test can record the order and replay every cut.
 */
export interface DurableFiles {
  /** Makes one directory, which must not exist. */
  makeDirectory(path: string, mode: number): Promise<void>;
  /** Creates or truncates a file. */
  write(path: string, content: string, mode: number): Promise<void>;
  /** Forces a file's content, or a directory's entries, to the disk. */
  flush(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
}

export const hostFiles: DurableFiles = {
  async makeDirectory(path, mode) {
    await mkdir(path, { mode });
  },
  async write(path, content, mode) {
    await using file = await open(path, "w", mode);
    await file.writeFile(content);
  },
  async flush(path) {
    await using file = await open(path);
    await file.sync();
  },
  async rename(from, to) {
    await rename(from, to);
  },
};

/**
 * Makes a directory with `mode` where it is missing, and missing parents with the process's default mode. After this they
 * survive a power cut.
 */
export async function makeDurableDirectory(path: string, mode: number, files: DurableFiles): Promise<void> {
  try {
    await files.makeDirectory(path, mode);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT") throw error;
    await makeDurableDirectory(dirname(path), 0o777, files);
    await makeDurableDirectory(path, mode, files);
    return;
  }
  await files.flush(dirname(path));
}

/** Replaces a file. A power cut leaves the old content or the new one, and the new one once this has resolved. */
export async function replaceFile(
  path: string,
  { content, mode, unfinished = `${path}.new` }: { content: string; mode: number; unfinished?: string },
  files: DurableFiles,
): Promise<void> {
  await files.write(unfinished, content, mode);
  await files.flush(unfinished);
  await files.rename(unfinished, path);
  await files.flush(dirname(path));
}

/** Files flushed at the same time: their writes share a commit of the file system. */
const flushesAtOnce = 32;

/** Forces a directory with everything below it to the disk. Symbolic links lead to files that others flush. */
export async function flushTree(directory: string, files: DurableFiles): Promise<void> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile() || entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  for (let first = 0; first < paths.length; first += flushesAtOnce) {
    await Promise.all(paths.slice(first, first + flushesAtOnce).map((path) => files.flush(path)));
  }
  await files.flush(directory);
}

/** Removes a directory with everything in it. A path that does not exist is removed already. */
export async function removeTree(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
}
