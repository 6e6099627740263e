import { Worker } from "node:worker_threads";
import { errorFromWire, type ErrorOnWire, SandboxError } from "@opensandbox/wire/errors.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";

/** A request to a memory thread. */
export type MemoryRequest = { readonly id: number } & (
  | { readonly kind: "capture"; readonly memory: GuestMemory; readonly file: string }
  | {
      readonly kind: "load";
      readonly key: number;
      readonly file: string;
      readonly sha256: string;
      readonly memoryBytes: number;
    }
  | {
      readonly kind: "apply";
      readonly key: number;
      readonly file: string;
      readonly sha256: string;
      readonly memory: GuestMemory;
    }
  | { readonly kind: "forget"; readonly key: number }
  | { readonly kind: "hash"; readonly file: string }
  | { readonly kind: "overwrite"; readonly delta: string; readonly image: string; readonly memoryBytes: number }
);

export interface MemoryReply {
  readonly id: number;
  readonly event:
    | { readonly kind: "copied"; readonly changedBytes: number }
    | ({ readonly kind: "done" } & StoredFile)
    | { readonly kind: "failed"; readonly error: ErrorOnWire };
}

export interface StoredFile {
  readonly bytes: number;
  readonly sha256: string;
}

export interface MemoryCapture {
  /** Resolves with the number of changed bytes when all of them are copied: the machine may resume. */
  readonly copied: Promise<number>;
  /** Resolves when the copy is on the disk. */
  readonly stored: Promise<StoredFile>;
}

/** A delta that was read and is intact. */
export interface LoadedDelta extends Disposable {
  /** Writes it into the memory of a machine that does not run yet. Call it once. */
  apply(memory: GuestMemory): Promise<void>;
}

type Ask = MemoryRequest extends infer Request ? (Request extends MemoryRequest ? Omit<Request, "id"> : never) : never;

/** Threads for everything except captures. More threads would wait for the same disk and memory. */
const threadCount = 2;

/** Machines captured at the same time, each by a thread that does nothing else meanwhile. */
const captureCount = 2;

/** The right to capture without waiting: the machine is paused meanwhile. */
export interface CaptureTurn extends Disposable {
  /** Writes the pages of `memory` that differ from its base to the new file `file`. */
  capture(memory: GuestMemory, file: string): MemoryCapture;
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
  #nextKey = 1;

  /** Waits until a thread is free. Call it before the machine is paused. */
  async captureTurn(): Promise<CaptureTurn> {
    const thread = await this.#takeCaptureThread();
    let held = true;
    let last: Promise<unknown> = Promise.resolve();
    return {
      capture: (memory, file) => {
        const capture = captureOn(thread, memory, file);
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
    await thread.ask({ kind: "load", key, file, sha256, memoryBytes });
    let held = true;
    return {
      apply: async (memory) => {
        held = false;
        await thread.ask({ kind: "apply", key, file, sha256, memory });
      },
      [Symbol.dispose]: () => {
        if (held) thread.ask({ kind: "forget", key }).catch(() => undefined);
        held = false;
      },
    };
  }

  /** The size and SHA-256 of a file. */
  async hash(file: string): Promise<StoredFile> {
    return await this.#idlest().ask({ kind: "hash", file });
  }

  /** Writes a delta into `image`, which is a copy of its base. */
  async overwrite(delta: string, image: string, memoryBytes: number): Promise<void> {
    await this.#idlest().ask({ kind: "overwrite", delta, image, memoryBytes });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#threads.splice(0), ...this.#captureThreads.splice(0)];
    await Promise.all(all.map((thread) => thread.end()));
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

function captureOn(thread: MemoryThread, memory: GuestMemory, file: string): MemoryCapture {
  const copied = Promise.withResolvers<number>();
  const stored = thread.ask({ kind: "capture", memory, file }, (bytes) => copied.resolve(bytes));
  stored.catch(copied.reject);
  // A caller may wait for only one of the two.
  copied.promise.catch(() => undefined);
  return { copied: copied.promise, stored };
}

interface Waiting extends PromiseWithResolvers<StoredFile> {
  readonly onCopied: (bytes: number) => void;
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

  async ask(request: Ask, onCopied: (bytes: number) => void = () => undefined): Promise<StoredFile> {
    const id = this.#nextId;
    this.#nextId += 1;
    const waiting = { ...Promise.withResolvers<StoredFile>(), onCopied };
    this.#waiting.set(id, waiting);
    // The process must not end in the middle of a file.
    this.#worker.ref();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    this.#worker.postMessage({ id, ...request });
    return await waiting.promise;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #receive({ id, event }: MemoryReply): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    if (event.kind === "copied") {
      waiting.onCopied(event.changedBytes);
      return;
    }
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (event.kind === "done") waiting.resolve({ bytes: event.bytes, sha256: event.sha256 });
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
