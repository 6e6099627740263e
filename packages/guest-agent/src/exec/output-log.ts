import { SandboxError } from "@opensandbox/wire/errors.ts";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { type Block, blockHeaderBytes, endOf } from "./output-block.ts";
import type { SpillFile } from "./spill-file.ts";

/** What a command has written to one of its pipes, as much as was there. */
export interface Output {
  readonly pipe: number;
  readonly bytes: Uint8Array;
}

/** Sizes in bytes. */
export interface OutputLimits {
  /** The scrollback: what is held in memory and replayed. */
  readonly memory: number;
  /** How far behind the fastest reader may be before the writer waits for it. */
  readonly window: number;
  /** What is dropped as one. */
  readonly block: number;
  /** The file is not written to in smaller pieces; so much more may be in memory until then. */
  readonly portion: number;
}

export const defaultOutputLimits: OutputLimits = {
  memory: 2 ** 20,
  window: 2 ** 19,
  block: maxDataBytes,
  portion: 2 ** 18,
};

/** Two pipes that take turns byte by byte would fill the memory with bookkeeping. */
const maxBlocks = 8192;

/**
 * What a command has written, in the order in which it was read: the end of it in memory, and what must outlast that in
 * a file. It has one writer, which waits when all readers are behind, and any number of readers at places of their own.
 *
 * Places are counted as in a file of all blocks since the beginning, whether or not there is one.
 */
export class OutputLog {
  readonly #limits: OutputLimits;
  readonly #spill: SpillFile;
  #keepAll: boolean;
  /** The end of the log, contiguous. Only the last one grows. */
  readonly #blocks: Block[] = [];
  #bytes = 0;
  #end = 0;
  /** Where the scrollback began when it left the memory. */
  #leftFrom: number | undefined;
  #waits = true;
  #closed = false;
  #truncated = false;
  readonly #readers = new Set<OutputReader>();
  #spilling: Promise<void> | undefined;
  /** So many of the oldest blocks are about to leave the memory: it is settled who of those that read gets them. */
  #leaving = 0;
  #blockedWriters: (() => void)[] = [];

  /** With `keepAll` nothing is ever dropped for as long as the file can take it. */
  constructor(
    spill: SpillFile,
    { keepAll, limits = defaultOutputLimits }: { keepAll: boolean; limits?: OutputLimits },
  ) {
    this.#spill = spill;
    this.#keepAll = keepAll;
    this.#limits = limits;
  }

  /** Something that was to be kept is lost: the file could not take it. */
  get truncated(): boolean {
    return this.#truncated;
  }

  get memoryBytes(): number {
    return this.#bytes;
  }

  /** Takes a copy. Returns undefined when the writer may go on at once, or a promise of the moment when it may. */
  append(pipe: number, bytes: Uint8Array): Promise<void> | undefined {
    for (let at = 0; at < bytes.length;) at += this.#put(pipe, bytes, at);
    for (const reader of this.#readers) reader.wake();
    if (this.#spilling === undefined) this.#dropOldest();
    return this.#isFull() || this.#isAhead() ? this.#makeRoom() : undefined;
  }

  /** The writer waits for nobody any more: what is left to be written is little. */
  stopWaiting(): void {
    this.#waits = false;
    this.#releaseWriters();
  }

  /** No more will be written: readers come to an end. */
  close(): void {
    this.#closed = true;
    for (const reader of this.#readers) reader.wake();
  }

  /** Begins where the scrollback does, or with the oldest output that is kept. Without `pipes` it reads both. */
  read({ fromStart, pipes = [] }: { fromStart: boolean; pipes?: readonly number[] }): OutputReader {
    const start = fromStart && this.#keepAll ? this.#oldest : this.#scrollbackStart;
    const reader = new OutputReader(this, { start, edge: this.#end, pipes });
    this.#readers.add(reader);
    return reader;
  }

  /** Moves what is in memory to the file. For a log that is closed: from now on it is read from there. */
  async leaveMemory(): Promise<void> {
    this.#leftFrom = this.#scrollbackStart;
    this.#keepAll = true;
    await this.#spilling;
    if (this.#blocks.length > 0) await this.#evict(this.#blocks.length);
  }

  /** Frees the file. Readers that are not at the end yet fail. */
  dispose(): void {
    const error = new SandboxError("unavailable", "the session was removed");
    for (const reader of [...this.#readers]) this.#fail(reader, error);
    this.#blocks.length = 0;
    this.#bytes = 0;
    this.#spill.close();
    this.#releaseWriters();
  }

  /** For {@link OutputReader}: the place that follows from `at`, which is another one only where output was lost. */
  placeOf(at: number): number {
    return at >= this.#memoryStart || at < this.#spill.end ? at : this.#memoryStart;
  }

  /** For {@link OutputReader}: the block at a place, perhaps from the file, or undefined when there is none yet. */
  blockAt(at: number): Block | Promise<Block> | undefined {
    return at < this.#memoryStart ? this.#spill.read(at) : this.#blockInMemory(at);
  }

  /** For {@link OutputReader}. */
  isAtEnd(at: number): boolean {
    return this.#closed && at >= this.#end;
  }

  /** For {@link OutputReader}: whether the block grows no more. */
  isSealed(block: Block): boolean {
    return this.#closed || block !== this.#blocks.at(-1);
  }

  /** For {@link OutputReader}: it has moved on. */
  moved(): void {
    if (this.#blockedWriters.length > 0 && !this.#isAhead()) this.#releaseWriters();
  }

  /** For {@link OutputReader}. */
  leave(reader: OutputReader): void {
    if (!this.#readers.delete(reader)) return;
    this.moved();
    // What is on its way to the file would be cut off with what is there.
    if (this.#spilling === undefined) this.#dropFile();
  }

  get #memoryStart(): number {
    return this.#blocks[0]?.at ?? this.#end;
  }

  get #oldest(): number {
    return this.#spill.isEmpty ? this.#memoryStart : this.#spill.start;
  }

  get #scrollbackStart(): number {
    if (this.#leftFrom !== undefined) return this.#leftFrom;
    let bytes = this.#bytes;
    for (const [index, { at, length }] of this.#blocks.entries()) {
      if (index >= this.#leaving && bytes <= this.#limits.memory) return at;
      bytes -= length;
    }
    return this.#end;
  }

  #put(pipe: number, bytes: Uint8Array, from: number): number {
    let last = this.#blocks.at(-1);
    if (last === undefined || last.pipe !== pipe || last.length >= this.#limits.block) {
      last = { pipe, at: this.#end, bytes: Buffer.alloc(0), length: 0 };
      this.#blocks.push(last);
      this.#end += blockHeaderBytes;
    }
    const part = bytes.subarray(from, from + this.#limits.block - last.length);
    if (last.length + part.length > last.bytes.length) grow(last, last.length + part.length, this.#limits.block);
    last.bytes.set(part, last.length);
    last.length += part.length;
    this.#bytes += part.length;
    this.#end += part.length;
    return part.length;
  }

  #blockInMemory(at: number): Block | undefined {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]!.at < at) low = middle + 1;
      else high = middle;
    }
    return this.#blocks[low];
  }

  #isFull(): boolean {
    return this.#bytes > this.#limits.memory + this.#limits.portion || this.#blocks.length > maxBlocks;
  }

  /** Further ahead of every reader than it may be. Where nobody reads, nobody is waited for. */
  #isAhead(): boolean {
    if (this.#readers.size === 0 || !this.#waits) return false;
    const limit = this.#end - this.#limits.window;
    for (const reader of this.#readers) if (reader.position >= limit) return false;
    return true;
  }

  async #makeRoom(): Promise<void> {
    while (this.#isFull()) await (this.#spilling ?? this.#shorten());
    while (this.#isAhead()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#blockedWriters.push(resolve);
      await promise;
    }
  }

  #dropOldest(): void {
    while (this.#bytes > this.#limits.memory || this.#blocks.length > maxBlocks) {
      if (this.#isNeeded(this.#blocks[0]!)) return;
      this.#bytes -= this.#blocks.shift()!.length;
    }
  }

  async #shorten(): Promise<void> {
    const fewer = Math.max(0, this.#blocks.length - maxBlocks / 2);
    let count = 0;
    let bytes = this.#bytes;
    while (bytes > this.#limits.memory || (this.#blocks.length > maxBlocks && count < fewer)) {
      bytes -= this.#blocks[count++]!.length;
    }
    this.#spilling = this.#evict(count);
    try {
      await this.#spilling;
    } finally {
      this.#spilling = undefined;
    }
  }

  /** Takes the oldest blocks out of memory, into the file where somebody needs them. */
  async #evict(count: number): Promise<void> {
    const needed = this.#blocks.slice(0, count).filter((block) => this.#isNeeded(block));
    this.#leaving = count;
    if (needed.length > 0 && !(await this.#store(needed))) this.#lose(needed.at(-1)!);
    this.#leaving = 0;
    for (const { length } of this.#blocks.splice(0, count)) this.#bytes -= length;
    this.#dropFile();
  }

  async #store(blocks: readonly Block[]): Promise<boolean> {
    // What is kept ends where it could not go on; nothing may follow that.
    if (this.#truncated) return false;
    // What is left of readers who were behind and are not any more.
    if (this.#spill.end !== blocks[0]!.at) this.#spill.clear();
    return await this.#spill.append(blocks);
  }

  #isNeeded(block: Block): boolean {
    if (this.#keepAll && !this.#truncated) return true;
    for (const reader of this.#readers) if (reader.next < endOf(block)) return true;
    return false;
  }

  /** The file could not take the block: whoever has yet to come to it cannot go on, and what is kept ends before it. */
  #lose(block: Block): void {
    if (this.#keepAll) this.#truncated = true;
    const error = new SandboxError(
      "quota_exceeded",
      "more output was waiting to be read than the sandbox's disk can hold: attach again",
    );
    for (const reader of [...this.#readers]) if (reader.next < endOf(block)) this.#fail(reader, error);
  }

  #fail(reader: OutputReader, error: SandboxError): void {
    this.#readers.delete(reader);
    reader.fail(error);
  }

  /** A file that was only for readers who were behind is emptied when they have come back. */
  #dropFile(): void {
    if (this.#keepAll || this.#spill.isEmpty) return;
    for (const reader of this.#readers) if (reader.next < this.#memoryStart) return;
    this.#spill.clear();
  }

  #releaseWriters(): void {
    const writers = this.#blockedWriters;
    this.#blockedWriters = [];
    for (const release of writers) release();
  }
}

function grow(block: Block, length: number, limit: number): void {
  const larger = Buffer.allocUnsafe(Math.min(limit, Math.max(length, 2 * block.bytes.length)));
  larger.set(block.bytes.subarray(0, block.length));
  block.bytes = larger;
}

/** One place in a log. What it has not taken yet is not lost, however long it takes; see {@link OutputLog}. */
export class OutputReader implements Disposable {
  readonly #log: OutputLog;
  readonly #pipes: readonly number[];
  /** Where the log ended when this began to read. */
  readonly #edge: number;
  #edgeTold = false;
  #block: Block | undefined;
  #taken = 0;
  /** Where the block begins that comes after {@link #block}. */
  #after: number;
  #failure: SandboxError | undefined;
  #wake: (() => void) | undefined;

  constructor(log: OutputLog, { start, edge, pipes }: { start: number; edge: number; pipes: readonly number[] }) {
    this.#log = log;
    this.#after = start;
    this.#edge = edge;
    this.#pipes = pipes;
  }

  /** Up to where it has read. */
  get position(): number {
    return this.#block === undefined ? this.#after : this.#block.at + blockHeaderBytes + this.#taken;
  }

  /** What it will ask the log for next. The block it is in it has already, whatever becomes of it in the log. */
  get next(): number {
    return this.#block === undefined ? this.#after : endOf(this.#block);
  }

  /**
   * The next part of the output, once `edge` when all that was there at the beginning has been read, and in the end
   * undefined. The bytes are the log's own.
   */
  async take(): Promise<Output | "edge" | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      if (!this.#edgeTold && this.position >= this.#edge) {
        this.#edgeTold = true;
        return "edge";
      }
      const output = this.#fromBlock();
      if (output !== undefined) {
        if (this.#wants(output)) return output;
        continue;
      }
      if (this.#block === undefined || this.#log.isSealed(this.#block)) {
        this.#after = this.#log.placeOf(this.next);
        this.#block = undefined;
        const following = this.#log.blockAt(this.#after);
        if (following !== undefined) {
          this.#block = following instanceof Promise ? await following : following;
          this.#taken = 0;
          continue;
        }
      }
      if (this.#log.isAtEnd(this.position)) return undefined;
      await this.#more();
    }
  }

  /** For {@link OutputLog}: there may be more. */
  wake(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** It can take no more. */
  fail(error: SandboxError): void {
    this.#failure ??= error;
    this.wake();
  }

  [Symbol.dispose](): void {
    this.#log.leave(this);
  }

  #fromBlock(): Output | undefined {
    const block = this.#block;
    if (block === undefined || this.#taken >= block.length) return undefined;
    // Not beyond the edge: what is new must be told from what was there.
    const toEdge = this.#edgeTold ? Infinity : this.#edge - block.at - blockHeaderBytes;
    const until = Math.min(block.length, toEdge);
    const bytes = block.bytes.subarray(this.#taken, until);
    this.#taken = until;
    this.#log.moved();
    return { pipe: block.pipe, bytes };
  }

  #wants({ pipe }: Output): boolean {
    return this.#pipes.length === 0 || this.#pipes.includes(pipe);
  }

  async #more(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
  }
}
