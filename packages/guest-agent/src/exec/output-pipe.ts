import { Socket } from "node:net";
import { bytesInPipe } from "#system/libc.ts";

// One for all: what is read is copied out before anything else is read.
const buffer = Buffer.alloc(64 * 1024);

/**
 * A pipe that a command writes to. What comes out is given to `send` in order, and no more is taken before that has
 * settled. When it rejects, nobody wants the rest: that is read and thrown away, so that the writer goes on.
 */
export class OutputPipe {
  readonly #fd: number;
  readonly #socket: Socket;
  #send: ((bytes: Uint8Array) => Promise<void>) | undefined;
  /** `send` is at work. */
  #busy = false;
  #open = true;
  /** Bytes still to be delivered, known when the command has ended. */
  #left = Infinity;
  readonly #delivered = Promise.withResolvers<void>();

  constructor(fd: number, send: (bytes: Uint8Array) => Promise<void>) {
    this.#fd = fd;
    this.#send = send;
    this.#socket = new Socket({
      fd,
      readable: true,
      writable: false,
      onread: { buffer, callback: (length) => this.#take(length) },
    });
    const onEnd = (): void => {
      this.#open = false;
      this.#check();
    };
    this.#socket.once("end", onEnd);
    this.#socket.once("error", onEnd);
  }

  /**
   * Settles when all that was written until now has been sent. For the end of the command: what a process that it left
   * behind writes from now on is thrown away.
   */
  async finish(): Promise<void> {
    this.#left = this.#open ? bytesInPipe(this.#fd) : 0;
    this.#check();
    await this.#delivered.promise;
    this.#send = undefined;
  }

  #take(length: number): boolean {
    if (this.#send === undefined) return true;
    this.#busy = true;
    this.#left -= length;
    this.#send(buffer.subarray(0, length).slice()).then(
      () => this.#sent(),
      () => {
        this.#send = undefined;
        this.#sent();
      },
    );
    return false;
  }

  #sent(): void {
    this.#busy = false;
    this.#check();
    this.#socket.resume();
  }

  #check(): void {
    if (!this.#busy && (this.#left <= 0 || !this.#open)) this.#delivered.resolve();
  }
}
