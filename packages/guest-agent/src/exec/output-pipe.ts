import { Socket, type SocketConstructorOpts } from "node:net";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { deviceSocket } from "#system/device-socket.ts";
import { bytesInPipe, setWindowSize } from "#system/libc.ts";
import type { TerminalSize } from "#system/terminal.ts";

// One for all: what is read is copied before anything else is read. Two frames' worth, as a pipe holds 64 KiB.
const buffer = Buffer.alloc(2 * maxDataBytes);

/**
 * How long a terminal must be silent after its program has ended, where others hold it open: what the program has
 * written last is on its way through the kernel, and nothing tells of its arrival.
 */
const silenceMs = 100;

/** Takes a copy. Returns a promise of the moment when more may come, or undefined when that is now. */
export type TakeOutput = (bytes: Uint8Array) => Promise<void> | undefined;

/**
 * What a command writes to. What comes out is given to `take` in order, and no more is read before that may come. When
 * its promise rejects, nobody wants the rest: that is read and thrown away, so that the writer goes on.
 */
export class OutputPipe {
  /** A terminal's other direction is written to it. */
  readonly socket: Socket;
  readonly #descriptor: number;
  readonly #terminal: boolean;
  #take: TakeOutput | undefined;
  /** What was taken last has not been dealt with. */
  #busy = false;
  #open = true;
  /** Bytes still to be delivered, known when the command has ended. */
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
    // A terminal that nobody has open any more says EIO.
    this.socket.once("end", onEnd);
    this.socket.once("error", onEnd);
  }

  /**
   * Settles when all that was written until now has been taken. For the end of the command: what a process that it left
   * behind writes from now on is thrown away.
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

  /** Of a terminal. */
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
