import { type FileHandle, open } from "node:fs/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { dataRanges } from "#host/kernel/libc.ts";
import { inParallel } from "./in-parallel.ts";
import { damaged, type SealedObjects } from "./sealed-objects.ts";

/**
 * The unit of deduplication, in bytes. Smaller chunks share more between versions of a file and cost more requests: a
 * gigabyte is 256 of them.
 */
const chunkBytes = 4 * 2 ** 20;

/** Requests of one transfer under way. Each holds a chunk and its compressed form in memory. */
const chunksAtOnce = 4;

/** A part of a file: its offset, its length, and the name of its content. Parts between chunks are zeros. */
export type Chunk = readonly [offset: number, length: number, name: string];

export interface Transfer {
  readonly objects: SealedObjects;
  readonly signal: AbortSignal;
  /** Receives the bytes of each chunk that is done. */
  readonly onBytes?: (bytes: number) => void;
}

/**
 * Stores the chunks of a file that the store does not have yet. Each chunk is read back and compared, those that were
 * there before too, so that the file can be fetched when this resolves.
 */
export async function uploadFile(
  path: string,
  transfer: Transfer,
): Promise<{ readonly bytes: number; readonly chunks: readonly Chunk[] }> {
  await using file = await open(path);
  const { size } = await file.stat();
  const chunks: Chunk[] = [];
  await inParallel(offsetsOf(file, size), chunksAtOnce, async (offset) => {
    const content = await readChunk(file, offset, Math.min(chunkBytes, size - offset));
    if (isZero(content)) return;
    const name = await transfer.objects.nameOf(content);
    await ensureChunk(name, content, transfer);
    chunks.push([offset, content.length, name]);
    transfer.onBytes?.(content.length);
  });
  return { bytes: size, chunks: chunks.toSorted(([a], [b]) => a - b) };
}

/** Fills a new file. Chunks are compared with their names. */
export async function downloadFile(
  file: FileHandle,
  { bytes, chunks }: { readonly bytes: number; readonly chunks: readonly Chunk[] },
  { objects, signal, onBytes }: Transfer,
): Promise<void> {
  await file.truncate(bytes);
  await inParallel(chunks, chunksAtOnce, async ([offset, length, name]) => {
    const content = await objects.get(chunkKey(name), signal);
    if (content === undefined) throw damaged(`chunk ${name} is missing`);
    if (content.length !== length || (await objects.nameOf(content)) !== name) {
      throw damaged(`chunk ${name} does not match its name`);
    }
    await file.write(content, 0, length, offset);
    onBytes?.(length);
  });
}

async function ensureChunk(name: string, content: Buffer<ArrayBuffer>, { objects, signal }: Transfer): Promise<void> {
  const key = chunkKey(name);
  const isWhole = async (): Promise<boolean> => {
    try {
      return (await objects.get(key, signal))?.equals(content) === true;
    } catch (error) {
      // A damaged object is replaced.
      if (isSandboxError(error, "incompatible")) return false;
      throw error;
    }
  };
  if ((await isWhole()) && (await objects.isFresh(key, signal))) return;
  await objects.put(key, content, signal);
  if (!(await isWhole())) throw damaged(`chunk ${name} reads differently than it was written`);
}

/** Two levels, because a directory with a million entries is slow on many file systems. */
function chunkKey(name: string): string {
  return `chunks/${name.slice(0, 2)}/${name}`;
}

/** The offsets of chunks that may hold something other than zeros. */
function offsetsOf(file: FileHandle, size: number): readonly number[] {
  const offsets = new Set<number>();
  for (const [start, end] of dataRanges(file.fd, size)) {
    for (let at = start - (start % chunkBytes); at < end; at += chunkBytes) offsets.add(at);
  }
  return [...offsets];
}

async function readChunk(file: FileHandle, offset: number, length: number): Promise<Buffer<ArrayBuffer>> {
  const content = Buffer.alloc(length);
  const { bytesRead } = await file.read(content, 0, length, offset);
  if (bytesRead < length) throw new Error("the file became shorter while it was read");
  return content;
}

const zeros = Buffer.alloc(chunkBytes);

function isZero(content: Buffer): boolean {
  return content.compare(zeros, 0, content.length) === 0;
}
