import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, statfs, unlink } from "node:fs/promises";
import { join } from "node:path";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { type Block, blockHeaderBytes, endOf, parseBlock, serialize } from "./output-block.ts";

export interface SpillOptions {
  /** Created when it is missing. */
  readonly directory: string;
  /** Limit of the file, in bytes. */
  readonly maxBytes?: number;
}

/** Exceeds the output that a reader needs of one command, and is a fifth of the default workspace. */
const defaultMaxBytes = 4 * 2 ** 30;
/** Keep this much of the disk free for the user's programs. */
const reserveBytes = 256 * 2 ** 20;
/** Bytes written between two checks of the free space. */
const checkBytes = 16 * 2 ** 20;

/**
 * A contiguous part of an output log on the disk. The file has no name, so that its space is freed however the agent
 * ends. Every operation is asynchronous, since a frozen file system blocks writers.
 */
export class SpillFile {
  readonly #directory: string;
  readonly #maxBytes: number;
  #file: FileHandle | undefined;
  #start = 0;
  #end = 0;
  #unchecked = checkBytes;
  #emptying: Promise<void> | undefined;
  #closed = false;

  constructor({ directory, maxBytes = defaultMaxBytes }: SpillOptions) {
    this.#directory = directory;
    this.#maxBytes = maxBytes;
  }

  get isEmpty(): boolean {
    return this.#end === this.#start;
  }

  /** The place of the first block. */
  get start(): number {
    return this.#start;
  }

  /** The place after the last block. */
  get end(): number {
    return this.#end;
  }

  /** Appends consecutive blocks. Returns false, and changes nothing, when they cannot be stored. */
  async append(blocks: readonly Block[]): Promise<boolean> {
    const [first] = blocks;
    const last = blocks.at(-1);
    if (first === undefined || last === undefined) return true;
    if (this.#closed) return false;
    const start = this.isEmpty ? first.at : this.#start;
    if (endOf(last) - start > this.#maxBytes) return false;
    try {
      await this.#write(serialize(blocks), first.at - start);
    } catch (error) {
      if (this.#closed || fullDisk.has((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
    this.#start = start;
    this.#end = endOf(last);
    return true;
  }

  /** The block at a place between {@link start} and {@link end}. */
  async read(at: number): Promise<Block> {
    const buffer = Buffer.allocUnsafe(blockHeaderBytes + Math.min(maxDataBytes, this.#end - at));
    const read = await readFully(this.#open, buffer, at - this.#start);
    const block = parseBlock(buffer, at);
    if (read < blockHeaderBytes + block.length) throw new Error("the output file ends within a block");
    return block;
  }

  /** Drops the content. Call it only while no read is in progress. */
  clear(): void {
    // If the truncation fails, later blocks overwrite the remaining content.
    if (this.#file !== undefined && !this.isEmpty) this.#emptying = this.#file.truncate().catch(() => undefined);
    this.#start = this.#end = 0;
  }

  close(): void {
    this.#closed = true;
    // Closing waits for pending writes, and nothing depends on its result.
    this.#file?.close().catch(() => undefined);
  }

  get #open(): FileHandle {
    if (this.#file === undefined) throw new Error("the output file was never written");
    return this.#file;
  }

  async #write(bytes: Buffer, position: number): Promise<void> {
    await this.#emptying;
    this.#emptying = undefined;
    this.#file ??= await openNameless(this.#directory);
    if (this.#closed) {
      await this.#file.close();
      return;
    }
    this.#unchecked += bytes.length;
    if (this.#unchecked >= checkBytes) {
      const { bavail, bsize } = await statfs(this.#directory);
      if (bavail * bsize < reserveBytes) throw Object.assign(new Error("the disk is nearly full"), { code: "ENOSPC" });
      this.#unchecked = 0;
    }
    for (let at = 0; at < bytes.length;) {
      at += (await this.#file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
    }
  }
}

const fullDisk = new Set(["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO"]);

async function openNameless(directory: string): Promise<FileHandle> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `output-${randomBytes(8).toString("hex")}`);
  const file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  await unlink(path);
  return file;
}

/** Number of bytes read, fewer than the buffer only at the end of the file. */
async function readFully(file: FileHandle, buffer: Buffer, position: number): Promise<number> {
  let at = 0;
  while (at < buffer.length) {
    const { bytesRead } = await file.read(buffer, at, buffer.length - at, position + at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at;
}
