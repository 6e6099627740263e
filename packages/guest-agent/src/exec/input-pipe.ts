import { Socket } from "node:net";

/** A pipe that a command reads from. A command may end or close it at any time: what comes then is thrown away. */
export class InputPipe {
  readonly #socket: Socket;

  constructor(fd: number) {
    this.#socket = new Socket({ fd, readable: false, writable: true });
    this.#socket.on("error", () => this.#socket.destroy());
  }

  /** Settles when the command's pipe has taken all, or takes nothing any more. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#socket.destroyed || !this.#socket.writable) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.write(bytes, () => resolve());
    await promise;
  }

  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}
