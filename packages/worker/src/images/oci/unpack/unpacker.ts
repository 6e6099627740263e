import {
  closeSync,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  futimesSync,
  constants,
  chmodSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { makeFifo, setAttribute } from "#host/kernel/libc.ts";
import type { TarEntry, TarReader } from "../tar-reader.ts";

/** The limits of one image. */
export interface UnpackLimits {
  /** Of the uncompressed layers together. */
  readonly maxBytes: number;
  readonly maxEntries: number;
}

const whiteout = ".wh.";
const opaque = ".wh..wh..opq";
/** Blocks of zeros of this size become holes. */
const holeBytes = 65_536;
const zeros = Buffer.alloc(holeBytes);
/** The kernel maps users above this only on purpose, and no distribution has any. */
const maxId = 65_535;

/**
 * Writes the layers of an image into the root directory of this process, later ones over earlier ones, as the OCI image
 * specification describes (https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md). The process must have
 * changed its root: the kernel then keeps every link of a layer inside.
 */
export class Unpacker {
  readonly #limits: UnpackLimits;
  #entries = 0;
  /** Times of directories, which every later entry in them changes. */
  readonly #times = new Map<string, number>();

  constructor(limits: UnpackLimits) {
    this.#limits = limits;
  }

  get entries(): number {
    return this.#entries;
  }

  /**
   * Unpacks one layer below `directory`, such as "" for the root.
   * @throws `invalid_argument` for an entry that an image must not have
   */
  async unpack(layer: TarReader, directory: string): Promise<void> {
    /** What this layer has made, which its own whiteouts do not remove. */
    const made = new Set<string>();
    for (;;) {
      const entry = await layer.next();
      if (entry === undefined) return;
      this.#entries += 1;
      if (this.#entries > this.#limits.maxEntries) throw refused(`it has more than ${this.#limits.maxEntries} entries`);
      const names = namesOf(entry.path);
      const base = names.at(-1);
      const parent = [directory, ...names.slice(0, -1)].join("/");
      if (base === undefined) continue;
      if (base === opaque) this.#clear(parent, made);
      // Other names with this prefix are notes of aufs.
      else if (base.startsWith(`${whiteout}${whiteout}`)) continue;
      else if (base.startsWith(whiteout)) this.#remove(`${parent}/${hiddenName(base)}`);
      else {
        const path = `${parent}/${base}`;
        await this.#make(entry, path, layer);
        for (let at = path; at !== "" && !made.has(at); at = at.slice(0, at.lastIndexOf("/"))) made.add(at);
      }
    }
  }

  /** Gives directories the times that their entries name. */
  finish(): void {
    for (const [path, mtime] of this.#times) {
      try {
        lutimesSync(bytes(path), mtime, mtime);
      } catch (error) {
        // A later layer has removed it.
        if (codeOf(error) !== "ENOENT" && codeOf(error) !== "ENOTDIR") throw error;
      }
    }
  }

  async #make(entry: TarEntry, path: string, layer: TarReader): Promise<void> {
    const { type, uid, gid } = entry;
    if (uid > maxId || gid > maxId)
      throw refused(`${shown(path)} belongs to user ${uid}, group ${gid}, above ${maxId}`);
    switch (type) {
      case "directory":
        this.#replace(path, () => mkdirSync(bytes(path), 0o755), "directory");
        this.#describe(entry, path);
        this.#times.set(path, entry.mtime);
        return;
      case "file":
        return await this.#file(entry, path, layer);
      case "symlink":
        this.#replace(path, () => symlinkSync(Buffer.from(entry.target, "latin1"), bytes(path)));
        return this.#describe(entry, path);
      case "link": {
        const target = `/${namesOf(entry.target).join("/")}`;
        if (target === path) return;
        return this.#replace(path, () => linkSync(bytes(target), bytes(path)));
      }
      case "fifo":
        this.#replace(path, () => makeFifo(bytes(path)));
        return this.#describe(entry, path);
      case "device":
        // The guest's kernel makes the devices of /dev.
        if (path.startsWith("/dev/")) return;
        throw refused(`${shown(path)} is a device, outside of /dev`);
    }
  }

  async #file(entry: TarEntry, path: string, layer: TarReader): Promise<void> {
    const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
    let file = -1;
    this.#replace(path, () => (file = openSync(bytes(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)));
    try {
      const segments = entry.segments ?? [{ offset: 0, size: entry.size }];
      let index = 0;
      let done = 0;
      for await (const part of layer.content()) {
        for (let at = 0; at < part.length;) {
          const { offset, size } = segments[index] ?? { offset: 0, size: Infinity };
          if (done === size) {
            index += 1;
            done = 0;
            continue;
          }
          const piece = part.subarray(at, at + Math.min(size - done, holeBytes));
          if (!piece.equals(zeros.subarray(0, piece.length))) writeAll(file, piece, offset + done);
          at += piece.length;
          done += piece.length;
        }
      }
      ftruncateSync(file, entry.size);
      fchownSync(file, entry.uid, entry.gid);
      this.#attributes(entry, path);
      fchmodSync(file, entry.mode);
      futimesSync(file, entry.mtime, entry.mtime);
    } finally {
      closeSync(file);
    }
  }

  /** Owner, attributes, mode and time of what is no regular file. A change of the owner would clear the other ones. */
  #describe(entry: TarEntry, path: string): void {
    lchownSync(bytes(path), entry.uid, entry.gid);
    this.#attributes(entry, path);
    if (entry.type !== "symlink") chmodSync(bytes(path), entry.mode);
    lutimesSync(bytes(path), entry.mtime, entry.mtime);
  }

  /** Capabilities and the user's own; others belong to the kernel of the host on which the layer was made. */
  #attributes({ attributes }: TarEntry, path: string): void {
    for (const [name, value] of attributes) {
      if (name === "security.capability" || name.startsWith("user.")) setAttribute(bytes(path), bytes(name), value);
    }
  }

  /** Makes something in place of what an earlier layer has there. A directory is kept when a directory replaces it. */
  #replace(path: string, make: () => void, kind?: "directory"): void {
    for (let attempt = 0; ; attempt++) {
      try {
        make();
        return;
      } catch (error) {
        const code = codeOf(error);
        if (attempt > 1) throw refused(`${shown(path)} cannot be made: ${code}`, error);
        if (code === "ENOENT") this.#parents(path);
        else if (code !== "EEXIST") throw refused(`${shown(path)} cannot be made: ${code}`, error);
        else if (kind === "directory" && lstatSync(bytes(path)).isDirectory()) return;
        else this.#remove(path);
      }
    }
  }

  /** Makes the directories above a path that no layer has an entry for. */
  #parents(path: string): void {
    const names = path.split("/").slice(1, -1);
    for (const [index] of names.entries()) {
      try {
        mkdirSync(bytes(`/${names.slice(0, index + 1).join("/")}`), 0o755);
      } catch (error) {
        if (codeOf(error) !== "EEXIST") throw refused(`${shown(path)} cannot be made: ${codeOf(error)}`, error);
      }
    }
  }

  /** Empties a directory, except for what this layer has made. */
  #clear(directory: string, made: ReadonlySet<string>): void {
    for (const name of listOf(directory)) {
      const path = `${directory}/${name}`;
      if (!made.has(path)) this.#remove(path);
      else if (lstatSync(bytes(path)).isDirectory()) this.#clear(path, made);
    }
  }

  /** Removes a file, or a directory with all in it. Links are removed, not followed. */
  #remove(path: string): void {
    try {
      if (lstatSync(bytes(path)).isDirectory()) {
        for (const name of listOf(path)) this.#remove(`${path}/${name}`);
        rmdirSync(bytes(path));
      } else {
        unlinkSync(bytes(path));
      }
    } catch (error) {
      if (codeOf(error) !== "ENOENT" && codeOf(error) !== "ENOTDIR") throw error;
    }
  }
}

/** The components of a path. @throws `invalid_argument` for one that leads out */
function namesOf(path: string): readonly string[] {
  const names = path.split("/").filter((name) => name !== "" && name !== ".");
  if (names.includes("..")) throw refused(`the path ${shown(path)} leads out of it`);
  if (path.includes("\0")) throw refused(`the path ${shown(path)} contains a zero byte`);
  return names;
}

function hiddenName(base: string): string {
  const name = base.slice(whiteout.length);
  if (name === "" || name === "." || name === "..") throw refused(`the entry ${shown(base)} hides nothing`);
  return name;
}

function listOf(directory: string): readonly string[] {
  try {
    return readdirSync(bytes(directory === "" ? "/" : directory), { encoding: "latin1" as BufferEncoding });
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return [];
    throw error;
  }
}

function writeAll(file: number, part: Buffer, at: number): void {
  for (let done = 0; done < part.length;) done += writeSync(file, part, done, part.length - done, at + done);
}

/** Paths are Latin-1 text, one character for each byte. */
function bytes(path: string): Buffer {
  return Buffer.from(path, "latin1");
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

/** A path for a message, without control characters and not too long. */
function shown(path: string): string {
  const name = Buffer.from(path, "latin1").toString("utf8");
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 120)}…` : name);
}

function refused(what: string, cause?: unknown): SandboxError {
  return new SandboxError("invalid_argument", `a layer of the image is refused: ${what}`, { cause });
}
