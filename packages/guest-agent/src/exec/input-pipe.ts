import { Socket } from "node:net";

/** Ctrl-D: at the beginning of a line the end of the input, as long as a program has not changed its terminal. */
const endOfTransmission = Uint8Array.of(4);

/** What a command reads from. A command may end or close it at any time: what comes then is thrown away. */
export class InputPipe {
  readonly #socket: Socket;
  readonly #terminal: boolean;

  constructor(socket: Socket, { terminal }: { terminal: boolean }) {
    this.#socket = socket;
    this.#terminal = terminal;
    socket.on("error", () => socket.destroy());
  }

  /** Settles when the command's pipe has taken all, or takes nothing any more. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#socket.destroyed || !this.#socket.writable) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.write(bytes, () => resolve());
    await promise;
  }

  end(): void {
    if (this.#terminal) void this.write(endOfTransmission);
    else this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** The standard input of a command that has a pipe. */
export function inputTo(fd: number): InputPipe {
  return new InputPipe(new Socket({ fd, readable: false, writable: true }), { terminal: false });
}
