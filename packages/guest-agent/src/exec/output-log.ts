import { SandboxError } from "@opensandbox/wire/errors.ts";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { type Block, blockHeaderBytes, endOf } from "./output-block.ts";
import type { SpillFile } from "./spill-file.ts";

/** Output of one pipe, as it was available. */
export interface Output {
  readonly pipe: number;
  readonly bytes: Uint8Array;
}

/** Sizes in bytes. */
export interface OutputLimits {
  /** The scrollback: the end of the output, held in memory and replayed. */
  readonly memory: number;
  /** How far the fastest reader may fall behind before the writer waits. */
  readonly window: number;
  /** The largest block. Blocks are the unit that is dropped. */
  readonly block: number;
  /** The smallest write to the file; the memory may exceed its limit by as much. */
  readonly portion: number;
}

export const defaultOutputLimits: OutputLimits = {
  memory: 2 ** 20,
  window: 2 ** 19,
  block: maxDataBytes,
  portion: 2 ** 18,
};

/** Bounds the bookkeeping when two pipes alternate byte by byte. */
const maxBlocks = 8192;

/**
 * The output of a command, in the order in which it was read: its end in memory, and older output in a file while a reader
 * or `keepAll` needs it. It has one writer, which waits when all readers are behind, and any number of readers, each at
 * its own place.
 *
 * A place is an offset in a file of all blocks since the beginning, whether or not that file exists.
 */
export class OutputLog {
  readonly #limits: OutputLimits;
  readonly #spill: SpillFile;
  #keepAll: boolean;
  /** The end of the log, without gaps. Only the last block grows. */
  readonly #blocks: Block[] = [];
  #bytes = 0;
  #end = 0;
  /** Start of the scrollback when it was moved to the file. */
  #leftFrom: number | undefined;
  #waits = true;
  #closed = false;
  #truncated = false;
  readonly #readers = new Set<OutputReader>();
  #spilling: Promise<void> | undefined;
  /** Number of the oldest blocks that are on their way to the file: new readers no longer start there. */
  #leaving = 0;
  #blockedWriters: (() => void)[] = [];

  /** `keepAll` drops nothing as long as the file takes it. */
  constructor(
    spill: SpillFile,
    { keepAll, limits = defaultOutputLimits }: { keepAll: boolean; limits?: OutputLimits },
  ) {
    this.#spill = spill;
    this.#keepAll = keepAll;
    this.#limits = limits;
  }

  /** Whether output that had to be kept is lost, because the file could not take it. */
  get truncated(): boolean {
    return this.#truncated;
  }

  get memoryBytes(): number {
    return this.#bytes;
  }

  /** Appends a copy. Returns undefined when more may follow at once, otherwise a promise for that moment. */
  append(pipe: number, bytes: Uint8Array): Promise<void> | undefined {
    for (let at = 0; at < bytes.length;) at += this.#put(pipe, bytes, at);
    for (const reader of this.#readers) reader.wake();
    if (this.#spilling === undefined) this.#dropOldest();
    return this.#isFull() || this.#isAhead() ? this.#makeRoom() : undefined;
  }

  /** Lets the writer finish without waiting for readers: little is left to write. */
  stopWaiting(): void {
    this.#waits = false;
    this.#releaseWriters();
  }

  /** Ends the log; readers end after its last byte. */
  close(): void {
    this.#closed = true;
    for (const reader of this.#readers) reader.wake();
  }

  /** Reads from the start of the scrollback, or from the oldest output kept. Without `pipes` it reads both. */
  read({ fromStart, pipes = [] }: { fromStart: boolean; pipes?: readonly number[] }): OutputReader {
    const start = fromStart && this.#keepAll ? this.#oldest : this.#scrollbackStart;
    const reader = new OutputReader(this, { start, edge: this.#end, pipes });
    this.#readers.add(reader);
    return reader;
  }

  /** Moves the output of a closed log from memory to the file. */
  async leaveMemory(): Promise<void> {
    this.#leftFrom = this.#scrollbackStart;
    this.#keepAll = true;
    await this.#spilling;
    if (this.#blocks.length > 0) await this.#evict(this.#blocks.length);
  }

  /** Frees memory and file. Readers that have not reached the end fail. */
  dispose(): void {
    const error = new SandboxError("unavailable", "the session was removed");
    for (const reader of [...this.#readers]) this.#fail(reader, error);
    this.#blocks.length = 0;
    this.#bytes = 0;
    this.#spill.close();
    this.#releaseWriters();
  }

  /** For {@link OutputReader}: `at`, or where the output resumes after a loss. */
  placeOf(at: number): number {
    return at >= this.#memoryStart || at < this.#spill.end ? at : this.#memoryStart;
  }

  /** For {@link OutputReader}: the block at a place, from memory or the file; undefined when it is still to come. */
  blockAt(at: number): Block | Promise<Block> | undefined {
    return at < this.#memoryStart ? this.#spill.read(at) : this.#blockInMemory(at);
  }

  /** For {@link OutputReader}. */
  isAtEnd(at: number): boolean {
    return this.#closed && at >= this.#end;
  }

  /** For {@link OutputReader}: whether the block is complete. */
  isSealed(block: Block): boolean {
    return this.#closed || block !== this.#blocks.at(-1);
  }

  /** For {@link OutputReader}: it has advanced. */
  moved(): void {
    if (this.#blockedWriters.length > 0 && !this.#isAhead()) this.#releaseWriters();
  }

  /** For {@link OutputReader}. */
  leave(reader: OutputReader): void {
    if (!this.#readers.delete(reader)) return;
    this.moved();
    // Clearing the file now would also cut off the blocks that are on their way to it.
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

  /** Whether the writer is too far ahead of every reader. Without readers it never is. */
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

  /** Removes the oldest blocks from memory, and stores those that are needed in the file. */
  async #evict(count: number): Promise<void> {
    const needed = this.#blocks.slice(0, count).filter((block) => this.#isNeeded(block));
    this.#leaving = count;
    if (needed.length > 0 && !(await this.#store(needed))) this.#lose(needed.at(-1)!);
    this.#leaving = 0;
    for (const { length } of this.#blocks.splice(0, count)) this.#bytes -= length;
    this.#dropFile();
  }

  async #store(blocks: readonly Block[]): Promise<boolean> {
    // The kept output ends at the first gap: nothing may follow it.
    if (this.#truncated) return false;
    // The file still holds blocks of readers that have caught up.
    if (this.#spill.end !== blocks[0]!.at) this.#spill.clear();
    return await this.#spill.append(blocks);
  }

  #isNeeded(block: Block): boolean {
    if (this.#keepAll && !this.#truncated) return true;
    for (const reader of this.#readers) if (reader.next < endOf(block)) return true;
    return false;
  }

  /** Drops a block that the file could not take: readers that still need it fail, and the kept output ends there. */
  #lose(block: Block): void {
    if (this.#keepAll) this.#truncated = true;
    const error = new SandboxError(
      "quota_exceeded",
      "unread output exceeds the free space on the disk of the sandbox: attach again",
    );
    for (const reader of [...this.#readers]) if (reader.next < endOf(block)) this.#fail(reader, error);
  }

  #fail(reader: OutputReader, error: SandboxError): void {
    this.#readers.delete(reader);
    reader.fail(error);
  }

  /** Clears a file that only slow readers needed, once they have caught up. */
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

/** A reader of a log. Output that it has not taken yet is kept, however slow it is; see {@link OutputLog}. */
export class OutputReader implements Disposable {
  readonly #log: OutputLog;
  readonly #pipes: readonly number[];
  /** End of the log when this reader started. */
  readonly #edge: number;
  #edgePassed = false;
  #block: Block | undefined;
  #taken = 0;
  /** Place of the block after {@link #block}. */
  #after: number;
  #failure: SandboxError | undefined;
  #wake: (() => void) | undefined;

  constructor(log: OutputLog, { start, edge, pipes }: { start: number; edge: number; pipes: readonly number[] }) {
    this.#log = log;
    this.#after = start;
    this.#edge = edge;
    this.#pipes = pipes;
  }

  /** How far this reader has read. */
  get position(): number {
    return this.#block === undefined ? this.#after : this.#block.at + blockHeaderBytes + this.#taken;
  }

  /** The place that it asks the log for next. It owns its present block, even when the log drops it. */
  get next(): number {
    return this.#block === undefined ? this.#after : endOf(this.#block);
  }

  /**
   * The next part of the output; `edge` once, after everything that existed when this reader started; undefined at the
   * end. The bytes belong to the log and must not be written to.
   */
  async take(): Promise<Output | "edge" | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      if (!this.#edgePassed && this.position >= this.#edge) {
        this.#edgePassed = true;
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

  /** For {@link OutputLog}: there may be more output. */
  wake(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Ends this reader with an error. */
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
    // A part ends at the edge, which separates the replay from new output.
    const toEdge = this.#edgePassed ? Infinity : this.#edge - block.at - blockHeaderBytes;
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
