import { Socket } from "node:net";

/** Ctrl-D: ends the input at the start of a line, unless the program has changed its terminal. */
const endOfTransmission = Uint8Array.of(4);

/** The input of a command. The command may end or close it at any time; later bytes are discarded. */
export class InputPipe {
  readonly #socket: Socket;
  readonly #terminal: boolean;

  constructor(socket: Socket, { terminal }: { terminal: boolean }) {
    this.#socket = socket;
    this.#terminal = terminal;
    socket.on("error", () => socket.destroy());
  }

  /** Settles when the command's pipe has taken all bytes or takes no more. */
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

/** Standard input through a pipe. */
export function inputTo(fd: number): InputPipe {
  return new InputPipe(new Socket({ fd, readable: false, writable: true }), { terminal: false });
}
