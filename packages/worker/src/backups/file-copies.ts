import { chmod, chown, link, lstat, mkdir, readlink, realpath, rename, rm, stat, symlink } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { namesIn } from "#host/storage/names-in.ts";

/** `link`: hard links where the file systems allow it, copies elsewhere. */
export type Transfer = "link" | "copy";

/**
 * Brings files that never change again into another directory. Files that are one file at their source, because several
 * snapshots share it, are one file there too. Copies keep holes, mode and owner.
 */
export class FileCopies {
  readonly #transfer: Transfer;
  readonly #signal: AbortSignal;
  /** Where the files of the source have got to, by device and inode. */
  readonly #known = new Map<string, string>();
  #copiedBytes = 0;

  constructor(transfer: Transfer, signal: AbortSignal) {
    this.#transfer = transfer;
    this.#signal = signal;
  }

  /** Disk space of the files that had to be copied. */
  get copiedBytes(): number {
    return this.#copiedBytes;
  }

  /** The file, or the one that a symbolic link leads to, under another name. */
  async place(from: string, to: string): Promise<void> {
    this.#signal.throwIfAborted();
    // A file that could not be linked into its snapshot is a symbolic link there.
    const file = await realpath(from);
    const { dev, ino, blocks } = await stat(file, { bigint: true });
    const identity = `${dev}:${ino}`;
    const known = this.#known.get(identity);
    if (await this.#linked(known ?? file, to, known !== undefined)) return;
    await runCommand("copy a file", ["cp", ...copyOptions, "--", file, to], { signal: this.#signal });
    this.#known.set(identity, to);
    this.#copiedBytes += Number(blocks) * blockBytes;
  }

  /** All files below a directory. Symbolic links stay links. */
  async #placeTree(from: string, to: string): Promise<void> {
    const { mode, uid, gid } = await stat(from);
    await mkdir(to, { recursive: true, mode: 0o700 });
    for (const name of await namesIn(from)) {
      const [source, target] = [join(from, name), join(to, name)];
      const found = await lstat(source);
      if (found.isDirectory()) await this.#placeTree(source, target);
      else if (found.isSymbolicLink()) await symlink(await readlink(source), target);
      else if (found.isFile()) await this.place(source, target);
    }
    if (process.getuid?.() === 0) await chown(to, uid, gid);
    await chmod(to, mode & 0o7777);
  }

  /** The directories of images that are complete, except for those that exist at the target. */
  async placeImages(from: string, to: string): Promise<void> {
    await mkdir(to, { recursive: true });
    const present = new Set(await namesIn(to));
    for (const name of await namesIn(from)) {
      // A name with a dot belongs to an image that is being built or removed.
      if (name.startsWith(".") || present.has(name) || !(await lstat(join(from, name))).isDirectory()) continue;
      const unfinished = join(to, `.unfinished-${name}`);
      await rm(unfinished, { recursive: true, force: true });
      await this.#placeTree(join(from, name), unfinished);
      await rename(unfinished, join(to, name));
    }
  }

  async #linked(file: string, to: string, isOurs: boolean): Promise<boolean> {
    if (this.#transfer === "copy" && !isOurs) return false;
    try {
      await link(file, to);
      return true;
    } catch (error) {
      // Another file system; a file of another user (protected_hardlinks in proc_sys_fs(5)); 65,000 links in ext4.
      if (["EXDEV", "EPERM", "EMLINK"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
  }
}

const copyOptions = ["--sparse=always", "--reflink=auto", "--preserve=mode,ownership,timestamps"];

/** The unit of `st_blocks`, stat(2). */
const blockBytes = 512;
