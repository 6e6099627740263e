import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The format of a memory delta, the difference to a base image. Numbers are little-endian.
 *
 * ```
 * pages    the content of all runs that are not zeros
 * runs     16 bytes each, in the order of their pages: u64 first page, u64 number of pages, whose highest bit marks
 *          a run of zeros
 * chunks   version 2 only, 48 bytes each: u64 offset of its pages in the file, u64 number of its runs, SHA-256 of its
 *          pages
 * footer   "OSBDELTA", u32 version, u32 bytes of a page, u64 number of runs, u64 bytes of pages
 * ```
 *
 * Version 1 has its pages in the order of the runs, and the manifest has the SHA-256 of the file. Version 2 is for many
 * pages: threads write and check its chunks independently, in any order. The manifest then has the SHA-256 of the tail,
 * which is everything behind the pages and covers them by the hashes of the chunks.
 */
export interface PageRun {
  /** Counted in pages from the beginning of the memory. */
  readonly first: number;
  readonly count: number;
  readonly zero: boolean;
}

/** Runs whose pages lie next to each other in the file. */
export interface DeltaChunk {
  /** Where the pages begin in the file. */
  readonly offset: number;
  readonly runs: readonly PageRun[];
  /** Of the pages, in hexadecimal digits. */
  readonly sha256: string;
}

export const pageBytes = 4096;
export const footerBytes = 32;
const runBytes = 16;
const chunkBytes = 48;
const hashBytes = 32;
const magic = "OSBDELTA";
const zeroMark = 1n << 63n;

/** The end of a delta of version 1. Pure. */
export function encodeTail(runs: readonly PageRun[]): Buffer {
  return Buffer.concat([encodeRuns(runs), encodeFooter(1, runs.length, contentBytesOf(runs))]);
}

/** The end of a delta of version 2. Pure. */
export function encodeChunkedTail(chunks: readonly DeltaChunk[]): Buffer {
  const runs = chunks.flatMap((chunk) => chunk.runs);
  const table = Buffer.alloc(chunks.length * chunkBytes);
  for (const [index, chunk] of chunks.entries()) {
    const at = index * chunkBytes;
    table.writeBigUInt64LE(BigInt(chunk.offset), at);
    table.writeBigUInt64LE(BigInt(chunk.runs.length), at + 8);
    table.write(chunk.sha256, at + 16, hashBytes, "hex");
  }
  return Buffer.concat([encodeRuns(runs), table, encodeFooter(2, runs.length, contentBytesOf(runs))]);
}

function encodeRuns(runs: readonly PageRun[]): Buffer {
  const index = Buffer.alloc(runs.length * runBytes);
  for (const [at, { first, count, zero }] of runs.entries()) {
    index.writeBigUInt64LE(BigInt(first), at * runBytes);
    index.writeBigUInt64LE(zero ? BigInt(count) | zeroMark : BigInt(count), at * runBytes + 8);
  }
  return index;
}

function encodeFooter(version: 1 | 2, runs: number, pagesEnd: number): Buffer {
  const footer = Buffer.alloc(footerBytes);
  footer.write(magic, 0, "latin1");
  footer.writeUInt32LE(version, 8);
  footer.writeUInt32LE(pageBytes, 12);
  footer.writeBigUInt64LE(BigInt(runs), 16);
  footer.writeBigUInt64LE(BigInt(pagesEnd), 24);
  return footer;
}

/** Bytes of the pages that are not zeros. Pure. */
export function contentBytesOf(runs: readonly PageRun[]): number {
  return runs.reduce((sum, { zero, count }) => sum + (zero ? 0 : count), 0) * pageBytes;
}

export interface DeltaFooter {
  readonly version: 1 | 2;
  readonly pagesEnd: number;
  readonly runs: number;
  /** 0 in version 1. */
  readonly chunks: number;
}

/** Reads the footer of a file of `fileBytes`. @throws `incompatible` for other files */
export function readFooter(footer: Buffer, fileBytes: number): DeltaFooter {
  const version = footer.readUInt32LE(8);
  const runs = Number(footer.readBigUInt64LE(16));
  const pagesEnd = Number(footer.readBigUInt64LE(24));
  const chunks = (fileBytes - footerBytes - pagesEnd - runs * runBytes) / chunkBytes;
  const isOne = version === 1 && chunks === 0;
  const isTwo = version === 2 && Number.isInteger(chunks) && chunks >= 0;
  if (!(isOne || isTwo) || footer.toString("latin1", 0, 8) !== magic || footer.readUInt32LE(12) !== pageBytes)
    throw new SandboxError("incompatible", "the snapshot's memory file has an unknown format", {
      reason: "format",
    });
  return { version: isOne ? 1 : 2, pagesEnd, runs, chunks };
}

/**
 * The chunks of the end of a delta of version 2, for a memory of `memoryPages`.
 * @throws `incompatible` for chunks that are not in the file or do not have all its pages
 */
export function decodeChunks(tail: Buffer, { runs, pagesEnd }: DeltaFooter, memoryPages: number): DeltaChunk[] {
  const all = decodeRuns(tail.subarray(0, runs * runBytes), memoryPages);
  const chunks: DeltaChunk[] = [];
  let [next, content] = [0, 0];
  for (let at = runs * runBytes; at < tail.length - footerBytes; at += chunkBytes) {
    const offset = Number(tail.readBigUInt64LE(at));
    const own = all.slice(next, next + Number(tail.readBigUInt64LE(at + 8)));
    next += own.length;
    content += contentBytesOf(own);
    if (offset + contentBytesOf(own) > pagesEnd) throw disordered();
    chunks.push({ offset, runs: own, sha256: tail.toString("hex", at + 16, at + 16 + hashBytes) });
  }
  if (next !== all.length || content !== pagesEnd) throw disordered();
  return chunks;
}

/** @throws `incompatible` for runs beyond `memoryPages` or out of order */
export function decodeRuns(index: Buffer, memoryPages: number): PageRun[] {
  const runs: PageRun[] = [];
  let end = 0;
  for (let at = 0; at < index.length; at += runBytes) {
    const first = Number(index.readBigUInt64LE(at));
    const marked = index.readBigUInt64LE(at + 8);
    const count = Number(marked & ~zeroMark);
    if (first < end || first + count > memoryPages) throw disordered();
    end = first + count;
    runs.push({ first, count, zero: (marked & zeroMark) !== 0n });
  }
  return runs;
}

function disordered(): SandboxError {
  return new SandboxError(
    "incompatible",
    "the snapshot's memory file lists pages beyond the machine's memory, or out of order",
    { reason: "format" },
  );
}
