import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/** The host's end of a virtio-serial port. A native program in the guest answers each byte with one byte. */
export class RawPort implements Disposable {
  readonly name: string;
  readonly #socket: Socket;

  private constructor(name: string, socket: Socket) {
    this.name = name;
    this.#socket = socket;
  }

  static async connect(name: string, path: string): Promise<RawPort> {
    const socket = connect(path);
    await within(`QEMU accepts a connection on ${path}`, once(socket, "connect"));
    return new RawPort(name, socket);
  }

  /** The program's answer. @throws when the port closes first */
  async ask(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const onData = (bytes: Buffer): void => resolve(bytes.readInt8(bytes.length - 1));
    const onClose = (): void => reject(new Error(`port ${this.name} was closed`));
    this.#socket.once("data", onData);
    this.#socket.once("close", onClose);
    try {
      this.#socket.write("x");
      return await within(`port ${this.name} answers`, promise, 60_000);
    } finally {
      this.#socket.off("data", onData);
      this.#socket.off("close", onClose);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
