// The thread that moves machine memory. Its system calls copy megabytes at a time and would block the worker's event
// loop. memory-threads.ts defines its requests.
import { createHash, type Hash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  statfsSync,
  writeSync,
  writevSync,
} from "node:fs";
import { basename, dirname } from "node:path";
import { parentPort } from "node:worker_threads";
import { asSandboxError, errorToWire, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { type AddressRanges, readProcessMemory, scanChangedPages, writeProcessMemory } from "#host/kernel/libc.ts";
import type { GuestMemory, MemoryRegion } from "#hypervisor/guest-memory.ts";
import { decodeRuns, encodeTail, footerBytes, pageBytes, type PageRun, readFooter } from "./delta.ts";
import type { MemoryReply, MemoryRequest } from "./memory-threads.ts";

/** Bytes copied at a time. */
const chunkBytes = 4 * 2 ** 20;

/**
 * A delta of at most this size is buffered in the worker's memory, so that the machine does not wait for the disk. The
 * buffer takes at most 1/8 of the host's available memory.
 */
const maxHeldBytes = 2 ** 30;
const heldShare = 8;

/** A capture keeps 1/100 of the disk free for guests. */
const keptShare = 100;

const zeroPage = Buffer.alloc(pageBytes);

/** Deltas that were read and checked, and wait for their process. */
const loaded = new Map<number, Delta>();

parentPort?.on("message", (request: MemoryRequest) => {
  const reply = (event: MemoryReply["event"]): void => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    parentPort?.postMessage({ id: request.id, event });
  };
  try {
    reply({ kind: "done", ...run(request, reply) });
  } catch (error) {
    reply({ kind: "failed", error: errorToWire(asSandboxError(error)) });
  }
});

function run(
  request: MemoryRequest,
  reply: (event: MemoryReply["event"]) => void,
): { readonly bytes: number; readonly sha256: string } {
  switch (request.kind) {
    case "capture":
      return capture(request.memory, request.file, (changedBytes) => reply({ kind: "copied", changedBytes }));
    case "load": {
      const { file, sha256, memoryBytes } = request;
      const delta = readIntactDelta(file, sha256, memoryBytes);
      // A large delta is checked while it is written, before the machine runs.
      if (delta.pages !== undefined) requireHash(file, delta.hash(), sha256);
      loaded.set(request.key, delta);
      return { bytes: delta.fileBytes, sha256 };
    }
    case "apply": {
      const delta = loaded.get(request.key);
      loaded.delete(request.key);
      if (delta === undefined) throw new Error("the delta was not loaded before it was applied");
      const { memory } = request;
      applyDelta(delta, (runs, bytes) => writeProcessMemory(memory.pid, addressesOf(runs, memory), bytes));
      if (delta.pages === undefined) requireHash(request.file, delta.hash(), request.sha256);
      return { bytes: delta.fileBytes, sha256: request.sha256 };
    }
    case "forget":
      loaded.delete(request.key);
      return { bytes: 0, sha256: "" };
    case "hash":
      return hashFile(request.file);
    case "overwrite":
      return overwrite(request.delta, request.image, request.memoryBytes);
  }
}

/** Copies the changed pages, reports that, and then writes them to a new file. */
function capture(
  memory: GuestMemory,
  file: string,
  onCopied: (bytes: number) => void,
): { readonly bytes: number; readonly sha256: string } {
  const ranges = changedRanges(memory);
  const total = bytesOf(ranges);
  requireRoom(dirname(file), total);
  const chunks = [...chunksOf(ranges)];
  const out = new DeltaWriter(file, memory);
  try {
    const held = total <= heldBytes() ? chunks.map((chunk) => copy(memory.pid, chunk)) : undefined;
    if (held === undefined) for (const chunk of chunks) out.add(chunk, copy(memory.pid, chunk));
    onCopied(total);
    for (const [index, bytes] of held?.entries() ?? []) out.add(chunks[index]!, bytes);
    return out.finish();
  } finally {
    out.close();
  }
}

function heldBytes(): number {
  return Math.min(maxHeldBytes, process.availableMemory() / heldShare);
}

/** Refuses a capture that would fill the disk: guests write to it too. */
function requireRoom(directory: string, bytes: number): void {
  const { bavail, blocks, bsize } = statfsSync(directory);
  const kept = (blocks * bsize) / keptShare;
  if (bavail * bsize - bytes >= kept) return;
  throw new SandboxError(
    "no_capacity",
    `the host's disk has no room for the snapshot's ${Math.ceil(bytes / 2 ** 20)} MiB of memory: delete sandboxes ` +
      "or checkpoints",
    { resource: "disk" },
  );
}

function copy(pid: number, ranges: AddressRanges): Buffer {
  const bytes = Buffer.allocUnsafeSlow(bytesOf(ranges));
  readProcessMemory(pid, ranges, bytes);
  return bytes;
}

/** Changed pages as address ranges. No range crosses from one region into another. */
function changedRanges({ pid, regions }: GuestMemory): AddressRanges {
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    return regions.flatMap(
      ({ start, bytes }) => scanChangedPages(pagemap, start, start + bytes) ?? readPagemap(pagemap, start, bytes),
    );
  } finally {
    closeSync(pagemap);
  }
}

/** For older kernels: reads one word for each page (Documentation/admin-guide/mm/pagemap.rst). */
function readPagemap(pagemap: number, start: number, bytes: number): AddressRanges {
  const words = new BigUint64Array(bytes / pageBytes);
  const buffer = Buffer.from(words.buffer);
  for (let at = 0; at < buffer.length;) {
    at += readSync(pagemap, buffer, at, buffer.length - at, (start / pageBytes) * 8 + at);
  }
  const [file, swapped, present] = [1n << 61n, 1n << 62n, 1n << 63n];
  const ranges: [number, number][] = [];
  for (const [page, word] of words.entries()) {
    const changed = (word & swapped) !== 0n || ((word & present) !== 0n && (word & file) === 0n);
    if (!changed) continue;
    const address = start + page * pageBytes;
    const last = ranges.at(-1);
    if (last?.[1] === address) last[1] = address + pageBytes;
    else ranges.push([address, address + pageBytes]);
  }
  return ranges;
}

/** Cuts ranges into chunks. */
function* chunksOf(ranges: AddressRanges): Generator<AddressRanges> {
  let chunk: [number, number][] = [];
  let room = chunkBytes;
  for (const [start, end] of ranges) {
    for (let at = start; at < end;) {
      const to = Math.min(end, at + room);
      chunk.push([at, to]);
      room -= to - at;
      at = to;
      if (room > 0) continue;
      yield chunk;
      chunk = [];
      room = chunkBytes;
    }
  }
  if (chunk.length > 0) yield chunk;
}

function bytesOf(ranges: AddressRanges): number {
  return ranges.reduce((sum, [start, end]) => sum + end - start, 0);
}

class DeltaWriter {
  readonly #fd: number;
  readonly #memory: GuestMemory;
  readonly #hash = createHash("sha256");
  readonly #runs: { first: number; count: number; zero: boolean }[] = [];
  #bytes = 0;

  constructor(file: string, memory: GuestMemory) {
    this.#fd = openSync(file, "wx", 0o600);
    this.#memory = memory;
  }

  add(ranges: AddressRanges, bytes: Buffer): void {
    const parts: Buffer[] = [];
    let at = 0;
    for (const [start, end] of ranges) {
      let page = pageAt(start, this.#memory);
      for (let address = start; address < end; address += pageBytes, at += pageBytes, page += 1) {
        const zero = bytes.compare(zeroPage, 0, pageBytes, at, at + pageBytes) === 0;
        this.#extend(page, zero);
        if (zero) continue;
        const last = parts.at(-1);
        const follows = last !== undefined && last.byteOffset + last.length === bytes.byteOffset + at;
        if (follows) parts[parts.length - 1] = bytes.subarray(last.byteOffset - bytes.byteOffset, at + pageBytes);
        else parts.push(bytes.subarray(at, at + pageBytes));
      }
    }
    this.#write(parts);
  }

  finish(): { readonly bytes: number; readonly sha256: string } {
    this.#write([encodeTail(this.#runs)]);
    fsyncSync(this.#fd);
    return { bytes: this.#bytes, sha256: this.#hash.digest("hex") };
  }

  close(): void {
    closeSync(this.#fd);
  }

  #extend(page: number, zero: boolean): void {
    const last = this.#runs.at(-1);
    if (last !== undefined && last.zero === zero && last.first + last.count === page) last.count += 1;
    else this.#runs.push({ first: page, count: 1, zero });
  }

  #write(parts: readonly Buffer[]): void {
    // IOV_MAX of Linux.
    for (let first = 0; first < parts.length; first += 1024) {
      const some = parts.slice(first, first + 1024);
      for (const part of some) this.#hash.update(part);
      const length = some.reduce((sum, part) => sum + part.length, 0);
      // A disk that fills up may accept a part. The next write then reports the reason.
      let written = writevSync(this.#fd, some);
      if (written < length) {
        const rest = Buffer.concat(some).subarray(written);
        for (let at = 0; at < rest.length; at += written) written = writeSync(this.#fd, rest, at);
      }
      this.#bytes += length;
    }
  }
}

interface Delta {
  readonly file: string;
  readonly fileBytes: number;
  readonly pagesEnd: number;
  readonly runs: readonly PageRun[];
  /** All pages; undefined when they are too many to buffer. */
  readonly pages: Buffer | undefined;
  readonly tail: Buffer;
  readonly hasher: Hash;
  /** The SHA-256 of the whole file. Call it once, after all pages have been read. */
  hash(): string;
}

/** A file that cannot be decoded has another format only if its hash is right; otherwise it is damaged. */
function readIntactDelta(file: string, sha256: string, memoryBytes: number): Delta {
  try {
    return readDelta(file, memoryBytes);
  } catch (error) {
    if (isSandboxError(error, "incompatible") && existsSync(file)) requireHash(file, hashFile(file).sha256, sha256);
    throw error;
  }
}

function readDelta(file: string, memoryBytes: number): Delta {
  const fd = openDelta(file);
  try {
    const { size } = fstatSync(fd);
    if (size < footerBytes) throw damaged(file);
    const { pagesEnd } = readFooter(readAt(fd, size - footerBytes, footerBytes), size);
    const tail = readAt(fd, pagesEnd, size - pagesEnd);
    const runs = decodeRuns(tail.subarray(0, -footerBytes), memoryBytes / pageBytes);
    const counted = runs.reduce((sum, { zero, count }) => sum + (zero ? 0 : count), 0);
    if (counted * pageBytes !== pagesEnd) throw damaged(file);
    const hasher = createHash("sha256");
    const pages = pagesEnd <= heldBytes() ? readAt(fd, 0, pagesEnd) : undefined;
    if (pages !== undefined) hasher.update(pages);
    return {
      ...{ file, fileBytes: size, pagesEnd, runs, pages, tail, hasher },
      hash: () => hasher.update(tail).digest("hex"),
    };
  } finally {
    closeSync(fd);
  }
}

function openDelta(file: string): number {
  try {
    return openSync(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw damaged(file);
    throw error;
  }
}

/** Passes the pages of a delta to `write`, some runs at a time with exactly their bytes. */
function applyDelta(delta: Delta, write: (runs: readonly PageRun[], bytes: Buffer) => void): void {
  const fd = delta.pages === undefined ? openSync(delta.file, "r") : -1;
  try {
    let at = 0;
    for (const runs of groupsOf(delta.runs)) {
      const zero = runs[0]?.zero === true;
      const length = runs.reduce((sum, { count }) => sum + count, 0) * pageBytes;
      if (zero) {
        write(runs, Buffer.alloc(length));
        continue;
      }
      const bytes = delta.pages?.subarray(at, at + length) ?? readAt(fd, at, length);
      if (delta.pages === undefined) delta.hasher.update(bytes);
      write(runs, bytes);
      at += length;
    }
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** Groups consecutive runs of one kind into about a chunk, and cuts longer ones. */
function* groupsOf(runs: readonly PageRun[]): Generator<PageRun[]> {
  const maxPages = chunkBytes / pageBytes;
  let group: PageRun[] = [];
  let pages = 0;
  for (const run of runs) {
    for (let done = 0; done < run.count;) {
      if (group.length > 0 && (group[0]!.zero !== run.zero || pages >= maxPages)) {
        yield group;
        group = [];
        pages = 0;
      }
      const count = Math.min(run.count - done, maxPages - pages);
      group.push({ first: run.first + done, count, zero: run.zero });
      pages += count;
      done += count;
    }
  }
  if (group.length > 0) yield group;
}

/** The guest's page at an address of its process. */
function pageAt(address: number, { regions }: GuestMemory): number {
  let page = 0;
  for (const { start, bytes } of regions) {
    if (address >= start && address < start + bytes) return page + (address - start) / pageBytes;
    page += bytes / pageBytes;
  }
  throw new Error("the page lies outside the guest's memory");
}

/** The addresses of runs. A run that crosses into the next region has two ranges. */
function addressesOf(runs: readonly PageRun[], { regions }: GuestMemory): AddressRanges {
  return runs.flatMap((run) => [...placesOf(run, regions)]);
}

function* placesOf({ first, count }: PageRun, regions: readonly MemoryRegion[]): Generator<[number, number]> {
  let before = 0;
  for (const { start, bytes } of regions) {
    const pages = bytes / pageBytes;
    const [from, to] = [Math.max(first, before), Math.min(first + count, before + pages)];
    if (from < to) yield [start + (from - before) * pageBytes, start + (to - before) * pageBytes];
    before += pages;
  }
}

/** Writes a delta into a copy of its base, which becomes a new base. */
function overwrite(file: string, image: string, memoryBytes: number): { bytes: number; sha256: string } {
  const delta = readDelta(file, memoryBytes);
  const fd = openSync(image, "r+");
  try {
    applyDelta(delta, (runs, bytes) => {
      let at = 0;
      for (const { first, count } of runs) {
        const length = count * pageBytes;
        for (let done = 0; done < length;) {
          done += writeSync(fd, bytes, at + done, length - done, first * pageBytes + done);
        }
        at += length;
      }
    });
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  return { bytes: delta.fileBytes, sha256: delta.hash() };
}

function hashFile(file: string): { readonly bytes: number; readonly sha256: string } {
  const fd = openSync(file, "r");
  try {
    const hash = createHash("sha256");
    const chunk = Buffer.allocUnsafeSlow(chunkBytes);
    let bytes = 0;
    for (;;) {
      const count = readSync(fd, chunk, 0, chunk.length, bytes);
      if (count === 0) return { bytes, sha256: hash.digest("hex") };
      hash.update(chunk.subarray(0, count));
      bytes += count;
    }
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(length);
  for (let at = 0; at < length;) {
    const count = readSync(fd, bytes, at, length - at, position + at);
    if (count === 0)
      throw new SandboxError("incompatible", "the snapshot is damaged: one of its files is too short", {
        reason: "damaged",
      });
    at += count;
  }
  return bytes;
}

function requireHash(file: string, found: string, expected: string): void {
  if (found !== expected) throw damaged(file);
}

function damaged(file: string): SandboxError {
  return new SandboxError("incompatible", `the snapshot is damaged: ${basename(file)} does not match its manifest`, {
    reason: "damaged",
  });
}
