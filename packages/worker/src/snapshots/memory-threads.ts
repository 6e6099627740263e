import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { errorFromWire, type ErrorOnWire, SandboxError } from "@opensandbox/wire/errors.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";
import {
  type FillChunks,
  pagesEndOf,
  type SharedWork,
  shareWork,
  stopWork,
  type StoreChunks,
  type StoredChunk,
} from "./delta-chunks.ts";

export interface CaptureMemory {
  readonly memory: GuestMemory;
  readonly file: string;
  /** The machine resumes after the copy, so the copy is kept in the worker's memory where that has room. */
  readonly hold: boolean;
}

export interface LoadDelta {
  readonly key: number;
  readonly file: string;
  readonly sha256: string;
  readonly memoryBytes: number;
}

interface MemoryRequests {
  readonly capture: CaptureMemory;
  readonly store: StoreChunks;
  readonly finish: { readonly file: string; readonly chunks: readonly StoredChunk[]; readonly at: number };
  readonly load: LoadDelta;
  readonly apply: { readonly key: number; readonly memory: GuestMemory };
  readonly overwrite: { readonly key: number; readonly image: string };
  readonly fill: FillChunks;
  readonly forget: { readonly key: number };
  readonly hash: { readonly file: string };
}

export interface MemoryResults {
  readonly capture: WrittenFile | LargeCapture;
  readonly store: readonly StoredChunk[];
  readonly finish: WrittenFile;
  /** Undefined: the delta is of version 1, and the thread has it. */
  readonly load: { readonly chunks: number | undefined };
  readonly apply: undefined;
  readonly overwrite: undefined;
  readonly fill: number;
  readonly forget: undefined;
  readonly hash: WrittenFile;
}

type Kind = keyof MemoryRequests;

/** A request to a memory thread. */
export type MemoryRequest = {
  [K in Kind]: { readonly id: number; readonly kind: K } & MemoryRequests[K];
}[Kind];

export interface MemoryReply {
  readonly id: number;
  readonly event:
    | { readonly kind: "copied"; readonly count: number }
    | { readonly kind: "done"; readonly result: MemoryResults[Kind] }
    | { readonly kind: "failed"; readonly error: ErrorOnWire };
}

interface WrittenFile {
  readonly bytes: number;
  readonly sha256: string;
}

/** Changed pages that several threads are to store. */
interface LargeCapture {
  readonly bytes: number;
  readonly chunks: number;
  readonly ranges: SharedArrayBuffer;
  readonly hold: boolean;
}

/** A delta that was written. */
export interface StoredDelta extends WrittenFile {
  /** `sha256` is that of the file's tail, which has the hashes of its chunks. Absent: it is that of the file. */
  readonly chunked?: true;
}

export interface MemoryCapture {
  /** Resolves with the number of changed bytes when all of them are copied: the machine may resume. */
  readonly copied: Promise<number>;
  /** Resolves when the copy is in the file, which the publication of the snapshot flushes. */
  readonly stored: Promise<StoredDelta>;
}

/** A delta that was read and, unless it is chunked, is intact. */
export interface LoadedDelta extends Disposable {
  /**
   * Writes it into the memory of a machine that does not run yet. Call it once.
   * @throws `incompatible` when a chunk does not match its hash
   */
  apply(memory: GuestMemory): Promise<void>;
}

/** Threads for everything except captures. More threads would wait for the same disk and memory. */
const threadCount = 2;

/** Machines captured at the same time, each by a thread that does nothing else meanwhile. */
const captureCount = 2;

/** At most this many threads share one large delta: more would wait for the host's memory or its disk. */
const maxSharing = 4;

/** The right to capture without waiting: the machine is paused meanwhile. */
export interface CaptureTurn extends Disposable {
  /** Writes the pages of `memory` that differ from its base to the new file `file`. */
  capture(capture: CaptureMemory): MemoryCapture;
}

/**
 * Moves the memory of machines between processes and files, off the event loop. The worker has one; its threads start
 * when they are needed and do not keep the process alive.
 */
export class MemoryThreads implements AsyncDisposable {
  readonly #threads: MemoryThread[] = [];
  readonly #captureThreads: MemoryThread[] = [];
  readonly #freeCaptureThreads: MemoryThread[] = [];
  readonly #captureQueue: ((thread: MemoryThread) => void)[] = [];
  /** Threads that share large deltas with the thread whose delta it is. */
  readonly #helpers: MemoryThread[] = [];
  #nextKey = 1;

  /** Waits until a thread is free. Call it before the machine is paused. */
  async captureTurn(): Promise<CaptureTurn> {
    const thread = await this.#takeCaptureThread();
    let held = true;
    let last: Promise<unknown> = Promise.resolve();
    return {
      capture: (request) => {
        const capture = this.#capture(thread, request);
        last = capture.stored;
        return capture;
      },
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        const free = (): void => this.#giveCaptureThread(thread);
        last.then(free, free);
      },
    };
  }

  /** Reads a delta. @throws `incompatible` when the file does not match `sha256` */
  async load(file: string, sha256: string, memoryBytes: number): Promise<LoadedDelta> {
    const key = this.#nextKey;
    this.#nextKey += 1;
    const thread = this.#idlest();
    const { chunks } = await thread.ask("load", { key, file, sha256, memoryBytes });
    if (chunks !== undefined) {
      const source = { file, sha256, memoryBytes, chunks };
      return { apply: (memory) => this.#fill(thread, source, memory), [Symbol.dispose]: () => undefined };
    }
    let held = true;
    return {
      apply: async (memory) => {
        held = false;
        await thread.ask("apply", { key, memory });
      },
      [Symbol.dispose]: () => {
        if (held) thread.ask("forget", { key }).catch(() => undefined);
        held = false;
      },
    };
  }

  /** Reads a chunked delta. @throws `incompatible` when its tail does not match `sha256`, or a chunk its hash */
  async verifyChunks(file: string, sha256: string): Promise<void> {
    const thread = this.#idlest();
    const memoryBytes = Number.MAX_SAFE_INTEGER;
    const { chunks } = await thread.ask("load", { key: 0, file, sha256, memoryBytes });
    if (chunks !== undefined) await this.#fill(thread, { file, sha256, memoryBytes, chunks }, "nowhere");
  }

  /** The size and SHA-256 of a file. */
  async hash(file: string): Promise<WrittenFile> {
    return await this.#idlest().ask("hash", { file });
  }

  /**
   * Writes a delta into `image`, which is a copy of its base.
   * @throws `incompatible` when the delta does not match `sha256`
   */
  async overwrite(delta: WrittenFile & { readonly path: string }, image: string, memoryBytes: number): Promise<void> {
    const { path: file, sha256 } = delta;
    const key = this.#nextKey;
    this.#nextKey += 1;
    const thread = this.#idlest();
    const { chunks } = await thread.ask("load", { key, file, sha256, memoryBytes });
    if (chunks === undefined) await thread.ask("overwrite", { key, image });
    else await this.#fill(thread, { file, sha256, memoryBytes, chunks }, { image });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [this.#threads, this.#captureThreads, this.#helpers].flatMap((threads) => threads.splice(0));
    await Promise.all(all.map((thread) => thread.end()));
  }

  #capture(thread: MemoryThread, request: CaptureMemory): MemoryCapture {
    const copied = Promise.withResolvers<number>();
    const store = async (): Promise<StoredDelta> => {
      const found = await thread.ask("capture", request, (bytes) => copied.resolve(bytes));
      if (!("ranges" in found)) return found;
      return await this.#store(thread, request, found, () => copied.resolve(found.bytes));
    };
    const stored = store();
    stored.catch(copied.reject);
    // A caller may wait for only one of the two.
    copied.promise.catch(() => undefined);
    return { copied: copied.promise, stored };
  }

  async #store(
    thread: MemoryThread,
    { memory, file }: CaptureMemory,
    { chunks: count, ranges, hold }: LargeCapture,
    onCopied: () => void,
  ): Promise<StoredDelta> {
    const work = shareWork(count);
    let copied = 0;
    const onChunks = (chunks: number): void => {
      copied += chunks;
      if (copied === count) onCopied();
    };
    const store = (sharer: MemoryThread) => sharer.ask("store", { memory, file, ranges, hold, work }, onChunks);
    const parts = await shared(this.#sharers(thread), work, store, (part) => part.length);
    return { ...(await thread.ask("finish", { file, chunks: parts.flat(), at: pagesEndOf(work) })), chunked: true };
  }

  async #fill(
    thread: MemoryThread,
    { chunks, memoryBytes, ...source }: Omit<LoadDelta, "key"> & { readonly chunks: number },
    target: FillChunks["target"],
  ): Promise<void> {
    const work = shareWork(chunks);
    const fill = (sharer: MemoryThread) => sharer.ask("fill", { ...source, memoryBytes, target, work });
    await shared(this.#sharers(thread), work, fill, (count) => count);
  }

  /** The thread and its helpers, which may be busy with another delta. */
  #sharers(thread: MemoryThread): readonly MemoryThread[] {
    const count = Math.min(maxSharing, availableParallelism()) - 1;
    while (this.#helpers.length < count) this.#helpers.push(new MemoryThread());
    return [thread, ...this.#helpers];
  }

  async #takeCaptureThread(): Promise<MemoryThread> {
    const free = this.#freeCaptureThreads.pop();
    if (free !== undefined) return free;
    if (this.#captureThreads.length < captureCount) {
      const thread = new MemoryThread();
      this.#captureThreads.push(thread);
      return thread;
    }
    const { promise, resolve } = Promise.withResolvers<MemoryThread>();
    this.#captureQueue.push(resolve);
    return await promise;
  }

  #giveCaptureThread(thread: MemoryThread): void {
    const next = this.#captureQueue.shift();
    if (next === undefined) this.#freeCaptureThreads.push(thread);
    else next(thread);
  }

  #idlest(): MemoryThread {
    const [idlest] = this.#threads.toSorted((a, b) => a.waiting - b.waiting);
    if (idlest !== undefined && (idlest.waiting === 0 || this.#threads.length >= threadCount)) return idlest;
    const thread = new MemoryThread();
    this.#threads.push(thread);
    return thread;
  }
}

/**
 * Asks all threads to take chunks of the work, and resolves when every chunk is done. A thread that is busy until then is
 * not waited for: it finds no chunk left. After a failure it waits for all threads, which then touch no file any more.
 */
async function shared<Part>(
  threads: readonly MemoryThread[],
  work: SharedWork,
  ask: (thread: MemoryThread) => Promise<Part>,
  countOf: (part: Part) => number,
): Promise<readonly Part[]> {
  const parts: Part[] = [];
  const done = Promise.withResolvers<void>();
  let left = work.chunks;
  if (left === 0) done.resolve();
  const asked = threads.map(async (thread) => {
    const part = await ask(thread);
    parts.push(part);
    left -= countOf(part);
    if (left === 0) done.resolve();
  });
  for (const each of asked) each.catch(done.reject);
  try {
    await done.promise;
    return parts;
  } catch (error) {
    stopWork(work);
    await Promise.allSettled(asked);
    throw error;
  }
}

interface Waiting extends Pick<PromiseWithResolvers<unknown>, "resolve" | "reject"> {
  readonly onCopied: (count: number) => void;
}

class MemoryThread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  constructor() {
    this.#worker = new Worker(new URL(import.meta.resolve("./memory-thread.ts")), { name: "memory" });
    this.#worker.unref();
    this.#worker.on("message", (reply: MemoryReply) => this.#receive(reply));
    this.#worker.on("error", (cause) => this.#fail(cause));
    this.#worker.on("exit", () => this.#fail(undefined));
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  async ask<K extends Kind>(
    kind: K,
    request: MemoryRequests[K],
    onCopied: (count: number) => void = () => undefined,
  ): Promise<MemoryResults[K]> {
    const id = this.#nextId;
    this.#nextId += 1;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.set(id, { resolve, reject, onCopied });
    // The process must not end in the middle of a file.
    this.#worker.ref();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    this.#worker.postMessage({ id, kind, ...request });
    return (await promise) as MemoryResults[K];
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #receive({ id, event }: MemoryReply): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    if (event.kind === "copied") {
      waiting.onCopied(event.count);
      return;
    }
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (event.kind === "done") waiting.resolve(event.result);
    else waiting.reject(errorFromWire(event.error));
  }

  #fail(cause: unknown): void {
    const error = new SandboxError(
      "unavailable",
      "a thread that moves machine memory has ended unexpectedly: try again",
      { cause },
    );
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
