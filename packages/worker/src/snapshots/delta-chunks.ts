import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, writeSync, writevSync } from "node:fs";
import { readProcessMemory, startWriteback, writeProcessMemory } from "#host/kernel/libc.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";
import { addPages, addressesOf, bytesOf, chunksOf, copyBytes, PageRuns, sharedRanges } from "./changed-pages.ts";
import {
  contentBytesOf,
  decodeChunks,
  pageBytes,
  type DeltaChunk,
  type DeltaFooter,
  encodeChunkedTail,
} from "./delta.ts";
import { damagedDelta, openDelta, readAt, readFooterOf } from "./delta-file.ts";

/** Work that threads share: each takes the next chunk until none is left. */
export interface SharedWork {
  readonly chunks: number;
  /** Two 64-bit numbers: the next chunk, and the end of the pages in a file that is being written. */
  readonly state: SharedArrayBuffer;
}

const [nextChunk, pagesEnd] = [0, 1];
const noMore = 2n ** 62n;

export function shareWork(chunks: number): SharedWork {
  return { chunks, state: new SharedArrayBuffer(2 * BigInt64Array.BYTES_PER_ELEMENT) };
}

/** No thread takes another chunk. */
export function stopWork({ state }: SharedWork): void {
  Atomics.store(new BigInt64Array(state), nextChunk, noMore);
}

/** The end of the pages that all threads have written. */
export function pagesEndOf({ state }: SharedWork): number {
  return Number(Atomics.load(new BigInt64Array(state), pagesEnd));
}

/** A thread that comes late may find the files of the work gone. */
function isTaken({ state, chunks }: SharedWork): boolean {
  return Number(Atomics.load(new BigInt64Array(state), nextChunk)) >= chunks;
}

function* take({ state, chunks }: SharedWork): Generator<number> {
  const shared = new BigInt64Array(state);
  for (;;) {
    const index = Number(Atomics.add(shared, nextChunk, 1n));
    if (index >= chunks) return;
    yield index;
  }
}

export interface StoreChunks {
  readonly memory: GuestMemory;
  readonly file: string;
  /** Of the changed pages, shared by `shareRanges`. */
  readonly ranges: SharedArrayBuffer;
  /** All chunks are copied before the first is written, so that the machine resumes early. */
  readonly hold: boolean;
  readonly work: SharedWork;
}

/** A chunk that was written, by its place in the order of the pages. */
export interface StoredChunk extends DeltaChunk {
  readonly index: number;
}

/** Copies and writes chunks until none is left. Calls `onCopied` with the number of chunks that this thread copied. */
export function storeChunks(request: StoreChunks, onCopied: (chunks: number) => void): readonly StoredChunk[] {
  const { memory, hold, work } = request;
  if (isTaken(work)) return [];
  const chunks = [...chunksOf(sharedRanges(request.ranges))];
  const out = new ChunkWriter(request);
  try {
    const stored: StoredChunk[] = [];
    const held: { readonly index: number; readonly bytes: Buffer }[] = [];
    const reused = hold ? undefined : Buffer.allocUnsafeSlow(copyBytes);
    for (const index of take(work)) {
      const ranges = chunks[index]!;
      const bytes = reused?.subarray(0, bytesOf(ranges)) ?? Buffer.allocUnsafeSlow(bytesOf(ranges));
      readProcessMemory(memory.pid, ranges, bytes);
      if (hold) held.push({ index, bytes });
      else stored.push(out.add(index, ranges, bytes));
    }
    onCopied(held.length + stored.length);
    for (const { index, bytes } of held) stored.push(out.add(index, chunks[index]!, bytes));
    return stored;
  } finally {
    out.close();
  }
}

class ChunkWriter {
  readonly #request: StoreChunks;
  #fd: number | undefined;

  constructor(request: StoreChunks) {
    this.#request = request;
  }

  add(index: number, ranges: ReturnType<typeof sharedRanges>, bytes: Buffer): StoredChunk {
    const { memory, work, file } = this.#request;
    const runs = new PageRuns();
    const parts = addPages(runs, ranges, bytes, memory);
    const hash = createHash("sha256");
    for (const part of parts) hash.update(part);
    const length = contentBytesOf(runs.list);
    const offset = Number(Atomics.add(new BigInt64Array(work.state), pagesEnd, BigInt(length)));
    this.#fd ??= openSync(file, "r+");
    writeParts(this.#fd, parts, offset);
    // Otherwise the kernel begins to write when a tenth of the host's memory is dirty, and the snapshot's flush waits
    // longer.
    if (length > 0) startWriteback(this.#fd, offset, length);
    return { index, offset, runs: runs.list, sha256: hash.digest("hex") };
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
  }
}

/** IOV_MAX of Linux. */
const vectorLength = 1024;

function writeParts(fd: number, parts: readonly Buffer[], offset: number): void {
  let at = offset;
  for (let first = 0; first < parts.length; first += vectorLength) {
    const some = parts.slice(first, first + vectorLength);
    const end = at + some.reduce((sum, { length }) => sum + length, 0);
    let written = writevSync(fd, some, at);
    // A disk that fills up may accept a part. The next write then reports the reason.
    if (at + written < end) {
      const rest = Buffer.concat(some);
      while (at + written < end) written += writeSync(fd, rest, written, rest.length - written, at + written);
    }
    at = end;
  }
}

/** Writes the tail behind all pages. Returns the size of the file and the hash of the tail. */
export function finishChunks(
  file: string,
  chunks: readonly StoredChunk[],
  at: number,
): { bytes: number; sha256: string } {
  const tail = encodeChunkedTail(chunks.toSorted((a, b) => a.index - b.index));
  const fd = openSync(file, "r+");
  try {
    writeParts(fd, [tail], at);
  } finally {
    closeSync(fd);
  }
  return { bytes: at + tail.length, sha256: createHash("sha256").update(tail).digest("hex") };
}

/** The chunks of a delta of version 2. @throws `incompatible` when its tail does not match `sha256` */
export function readChunks(
  fd: number,
  footer: DeltaFooter,
  file: string,
  sha256: string,
  memoryPages: number,
): DeltaChunk[] {
  const tail = readAt(fd, footer.pagesEnd, fstatSync(fd).size - footer.pagesEnd);
  if (createHash("sha256").update(tail).digest("hex") !== sha256) throw damagedDelta(file);
  return decodeChunks(tail, footer, memoryPages);
}

export interface FillChunks {
  readonly file: string;
  readonly sha256: string;
  readonly memoryBytes: number;
  /** Where the pages go. `nowhere`: the file is only checked. */
  readonly target: GuestMemory | { readonly image: string } | "nowhere";
  readonly work: SharedWork;
}

/**
 * Reads, checks and writes chunks until none is left. Returns their number. A chunk is written after its hash was found
 * right. @throws `incompatible` for a damaged chunk
 */
export function fillChunks({ file, sha256, memoryBytes, target, work }: FillChunks): number {
  if (isTaken(work)) return 0;
  const fd = openDelta(file);
  const image = target !== "nowhere" && "image" in target ? openSync(target.image, "r+") : undefined;
  try {
    const chunks = readChunks(fd, readFooterOf(fd, file), file, sha256, memoryBytes / pageBytes);
    const buffer = Buffer.allocUnsafeSlow(copyBytes);
    let count = 0;
    for (const index of take(work)) {
      const { offset, runs, sha256: expected } = chunks[index]!;
      const length = contentBytesOf(runs);
      const bytes = readAt(fd, offset, length, length <= buffer.length ? buffer : undefined);
      if (createHash("sha256").update(bytes).digest("hex") !== expected) throw damagedDelta(file);
      if (image !== undefined) writeToImage(image, runs, bytes);
      else if (target !== "nowhere" && "pid" in target) writeToProcess(target, runs, bytes);
      count += 1;
    }
    return count;
  } finally {
    closeSync(fd);
    if (image !== undefined) closeSync(image);
  }
}

function writeToProcess(memory: GuestMemory, runs: DeltaChunk["runs"], bytes: Buffer): void {
  const content = runs.filter(({ zero }) => !zero);
  if (content.length > 0) writeProcessMemory(memory.pid, addressesOf(content, memory), bytes);
  const zeros = runs.filter(({ zero }) => zero);
  const zeroBytes = contentBytesOf(zeros.map((run) => ({ ...run, zero: false })));
  if (zeroBytes > 0) writeProcessMemory(memory.pid, addressesOf(zeros, memory), Buffer.alloc(zeroBytes));
}

function writeToImage(fd: number, runs: DeltaChunk["runs"], bytes: Buffer): void {
  let at = 0;
  for (const { first, count, zero } of runs) {
    const length = contentBytesOf([{ first, count, zero: false }]);
    const position = contentBytesOf([{ first: 0, count: first, zero: false }]);
    writeParts(fd, [zero ? Buffer.alloc(length) : bytes.subarray(at, at + length)], position);
    if (!zero) at += length;
  }
}
