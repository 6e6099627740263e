// The thread that moves machine memory. Its system calls copy megabytes at a time and would block the worker's event
// loop. memory-threads.ts defines its requests.
import { createHash, type Hash } from "node:crypto";
import { closeSync, existsSync, fstatSync, openSync, statfsSync, writeSync, writevSync } from "node:fs";
import { dirname } from "node:path";
import { parentPort } from "node:worker_threads";
import { asSandboxError, errorToWire, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { type AddressRanges, readProcessMemory, writeProcessMemory } from "#host/kernel/libc.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";
import {
  addPages,
  addressesOf,
  bytesOf,
  changedRanges,
  chunksOf,
  copyBytes,
  PageRuns,
  shareRanges,
} from "./changed-pages.ts";
import { decodeRuns, encodeTail, footerBytes, pageBytes, type PageRun } from "./delta.ts";
import { fillChunks, finishChunks, readChunks, storeChunks } from "./delta-chunks.ts";
import { damagedDelta, hashFile, openDelta, readAt, readFooterOf } from "./delta-file.ts";
import type { CaptureMemory, LoadDelta, MemoryReply, MemoryRequest, MemoryResults } from "./memory-threads.ts";

/**
 * A delta of at most this size is buffered in the worker's memory, so that the machine does not wait for the disk. The
 * buffer takes at most 1/8 of the host's available memory.
 */
const maxHeldBytes = 2 ** 30;
const heldShare = 8;

/** From this many changed bytes on several threads write a delta in chunks. Starting a thread takes some 50 ms. */
const minChunkedBytes = 64 * 2 ** 20;

/** A capture keeps 1/100 of the disk free for guests. */
const keptShare = 100;

/** Deltas of version 1 that were read and checked, and wait for their process. */
const loaded = new Map<number, Delta>();

parentPort?.on("message", (request: MemoryRequest) => {
  const reply = (event: MemoryReply["event"]): void => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    parentPort?.postMessage({ id: request.id, event });
  };
  try {
    reply({ kind: "done", result: run(request, (count) => reply({ kind: "copied", count })) });
  } catch (error) {
    reply({ kind: "failed", error: errorToWire(asSandboxError(error)) });
  }
});

/** `onCopied` receives the bytes of a capture, and the chunks of a `store`. */
function run(request: MemoryRequest, onCopied: (count: number) => void): MemoryResults[MemoryRequest["kind"]] {
  switch (request.kind) {
    case "capture":
      return capture(request, onCopied);
    case "store":
      return storeChunks(request, onCopied);
    case "finish":
      return finishChunks(request.file, request.chunks, request.at);
    case "load":
      return load(request);
    case "apply": {
      const delta = loaded.get(request.key);
      loaded.delete(request.key);
      if (delta === undefined) throw new Error("the delta was not loaded before it was applied");
      const { memory } = request;
      applyDelta(delta, (runs, bytes) => writeProcessMemory(memory.pid, addressesOf(runs, memory), bytes));
      if (delta.pages === undefined) requireHash(delta.file, delta.hash(), delta.sha256);
      return undefined;
    }
    case "fill":
      return fillChunks(request);
    case "forget":
      loaded.delete(request.key);
      return undefined;
    case "hash":
      return hashFile(request.file);
    case "overwrite":
      return overwrite(request.key, request.image);
  }
}

/**
 * Copies the changed pages, reports that, and then writes them to a new file. Of a large delta it only makes the file,
 * and returns the pages that are to be stored in chunks.
 */
function capture({ memory, file, hold }: CaptureMemory, onCopied: (bytes: number) => void): MemoryResults["capture"] {
  const ranges = changedRanges(memory);
  const total = bytesOf(ranges);
  requireRoom(dirname(file), total);
  const chunks = [...chunksOf(ranges)];
  const out = new DeltaWriter(file, memory);
  try {
    const fits = total <= heldBytes();
    if (total >= minChunkedBytes) {
      return { bytes: total, chunks: chunks.length, ranges: shareRanges(ranges), hold: hold && fits };
    }
    const held = fits ? chunks.map((chunk) => copy(memory.pid, chunk)) : undefined;
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

/** Writes a delta of version 1. */
class DeltaWriter {
  readonly #fd: number;
  readonly #memory: GuestMemory;
  readonly #hash = createHash("sha256");
  readonly #runs = new PageRuns();
  #bytes = 0;

  constructor(file: string, memory: GuestMemory) {
    this.#fd = openSync(file, "wx", 0o600);
    this.#memory = memory;
  }

  add(ranges: AddressRanges, bytes: Buffer): void {
    this.#write(addPages(this.#runs, ranges, bytes, this.#memory));
  }

  finish(): { readonly bytes: number; readonly sha256: string } {
    this.#write([encodeTail(this.#runs.list)]);
    return { bytes: this.#bytes, sha256: this.#hash.digest("hex") };
  }

  close(): void {
    closeSync(this.#fd);
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

/** A delta of version 1. */
interface Delta {
  readonly file: string;
  readonly sha256: string;
  readonly runs: readonly PageRun[];
  /** All pages; undefined when they are too many to buffer. */
  readonly pages: Buffer | undefined;
  readonly hasher: Hash;
  /** The SHA-256 of the whole file. Call it once, after all pages have been read. */
  hash(): string;
}

/** Reads a delta. A chunked one is read when it is filled in; only its tail is checked now. */
function load(request: LoadDelta): MemoryResults["load"] {
  const { file, sha256, key } = request;
  const found = readIntactDelta(request);
  if ("chunks" in found) return found;
  // A large delta is checked while it is written, before the machine runs.
  if (found.pages !== undefined) requireHash(file, found.hash(), sha256);
  loaded.set(key, found);
  return { chunks: undefined };
}

/** A file that cannot be decoded has another format only if its hash is right; otherwise it is damaged. */
function readIntactDelta(request: LoadDelta): Delta | { readonly chunks: number } {
  const { file, sha256 } = request;
  try {
    return readDelta(request);
  } catch (error) {
    if (isSandboxError(error, "incompatible") && existsSync(file)) requireHash(file, hashFile(file).sha256, sha256);
    throw error;
  }
}

function readDelta({ file, sha256, memoryBytes }: LoadDelta): Delta | { readonly chunks: number } {
  const fd = openDelta(file);
  try {
    const footer = readFooterOf(fd, file);
    if (footer.version === 2) {
      return { chunks: readChunks(fd, footer, file, sha256, memoryBytes / pageBytes).length };
    }
    const { pagesEnd } = footer;
    const tail = readAt(fd, pagesEnd, fstatSync(fd).size - pagesEnd);
    const runs = decodeRuns(tail.subarray(0, -footerBytes), memoryBytes / pageBytes);
    const counted = runs.reduce((sum, { zero, count }) => sum + (zero ? 0 : count), 0);
    if (counted * pageBytes !== pagesEnd) throw damagedDelta(file);
    const hasher = createHash("sha256");
    const pages = pagesEnd <= heldBytes() ? readAt(fd, 0, pagesEnd) : undefined;
    if (pages !== undefined) hasher.update(pages);
    return { file, sha256, runs, pages, hasher, hash: () => hasher.update(tail).digest("hex") };
  } finally {
    closeSync(fd);
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
  const maxPages = copyBytes / pageBytes;
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

/** Writes a loaded delta into a copy of its base, which becomes a new base. */
function overwrite(key: number, image: string): undefined {
  const delta = loaded.get(key);
  loaded.delete(key);
  if (delta === undefined) throw new Error("the delta was not loaded before it was written");
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
  } finally {
    closeSync(fd);
  }
  if (delta.pages === undefined) requireHash(delta.file, delta.hash(), delta.sha256);
  return undefined;
}

function requireHash(file: string, found: string, expected: string): void {
  if (found !== expected) throw damagedDelta(file);
}
