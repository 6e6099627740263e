import { Socket, type SocketConstructorOpts } from "node:net";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { deviceSocket } from "#system/kernel/device-socket.ts";
import { bytesInPipe, setWindowSize } from "#system/kernel/libc.ts";
import type { TerminalSize } from "#system/kernel/terminal.ts";

// Shared: each read is copied before the next one. Two frames, since a pipe holds 64 KiB.
const buffer = Buffer.alloc(2 * maxDataBytes);

/**
 * How long a terminal that other processes hold open must be silent after the end of its program: the last output is
 * still on its way through the kernel, and no event reports its arrival.
 */
const silenceMs = 100;

/** Takes a copy. Returns undefined when more may follow at once, otherwise a promise for that moment. */
export type TakeOutput = (bytes: Uint8Array) => Promise<void> | undefined;

/**
 * An output of a command. It passes the bytes to `take` in order and reads no more before `take` allows it. When the
 * promise of `take` rejects, the rest is read and discarded, so that the command can go on writing.
 */
export class OutputPipe {
  /** Also takes the input of a terminal. */
  readonly socket: Socket;
  readonly #descriptor: number;
  readonly #terminal: boolean;
  #take: TakeOutput | undefined;
  /** Whether `take` has not finished with the last bytes. */
  #busy = false;
  #open = true;
  /** Bytes still to be delivered; known once the command has ended. */
  #left = Infinity;
  #silence: NodeJS.Timeout | undefined;
  readonly #delivered = Promise.withResolvers<void>();

  constructor(fd: number, { terminal }: { terminal: boolean }, take: TakeOutput) {
    this.#terminal = terminal;
    this.#take = take;
    const options: SocketConstructorOpts = { onread: { buffer, callback: (length) => this.#onRead(length) } };
    if (terminal) {
      ({ socket: this.socket, descriptor: this.#descriptor } = deviceSocket(fd, options));
    } else {
      this.socket = new Socket({ ...options, fd, readable: true, writable: false });
      this.#descriptor = fd;
    }
    const onEnd = (): void => {
      this.#open = false;
      this.#check();
    };
    // A terminal reports EIO when no process has it open.
    this.socket.once("end", onEnd);
    this.socket.once("error", onEnd);
  }

  /**
   * Settles when everything written until now has been taken. Called at the end of the command: later output, from
   * processes that it left behind, is discarded.
   */
  async finish(): Promise<void> {
    if (!this.#open) this.#left = 0;
    else if (this.#terminal) this.#awaitSilence();
    else this.#left = bytesInPipe(this.#descriptor);
    this.#check();
    await this.#delivered.promise;
    this.#take = undefined;
    clearTimeout(this.#silence);
    if (this.#terminal) this.socket.destroy();
  }

  /** Sets the size of a terminal. */
  resize(size: TerminalSize): void {
    if (!this.socket.destroyed) setWindowSize(this.#descriptor, size);
  }

  #onRead(length: number): boolean {
    if (this.#take === undefined) return true;
    this.#left -= length;
    this.#silence?.refresh();
    const taken = this.#take(buffer.subarray(0, length));
    if (taken === undefined) {
      this.#check();
      return true;
    }
    this.#busy = true;
    taken.then(
      () => this.#onTaken(),
      () => {
        this.#take = undefined;
        this.#onTaken();
      },
    );
    return false;
  }

  #onTaken(): void {
    this.#busy = false;
    this.#silence?.refresh();
    this.#check();
    this.socket.resume();
  }

  #awaitSilence(): void {
    this.#silence = setTimeout(() => {
      if (this.#busy) return;
      this.#left = 0;
      this.#check();
    }, silenceMs);
  }

  #check(): void {
    if (!this.#busy && (this.#left <= 0 || !this.#open)) this.#delivered.resolve();
  }
}
