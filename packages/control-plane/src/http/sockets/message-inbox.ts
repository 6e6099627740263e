import type { WebSocket } from "ws";

export interface Message {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/**
 * The messages of a paused WebSocket, first one and then the others. One read of the socket may hold several, which
 * come even when it is paused in between: they wait here.
 */
export class MessageInbox {
  readonly #socket: WebSocket;
  readonly #waiting: Message[] = [];
  #handle: (message: Message) => void = (message) => this.#waiting.push(message);

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer, isBinary: boolean) => this.#handle({ data, isBinary }));
  }

  /** The first message; the socket is paused again when it has come. Rejects with the signal's reason. */
  async first(signal: AbortSignal): Promise<Message> {
    const first = Promise.withResolvers<Message>();
    const keep = this.#handle;
    this.#handle = (message) => {
      this.#handle = keep;
      this.#socket.pause();
      first.resolve(message);
    };
    const abort = (): void => first.reject(signal.reason);
    signal.addEventListener("abort", abort);
    try {
      signal.throwIfAborted();
      this.#socket.resume();
      return await first.promise;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** Gives every further message to `handle`. */
  forEach(handle: (message: Message) => void): void {
    this.#handle = handle;
    // Before those that wait are handled: one of them may pause the socket.
    this.#socket.resume();
    for (const message of this.#waiting.splice(0)) handle(message);
  }

  /** Drops whatever still comes, so that the caller's side of the close is heard. */
  close(): void {
    this.#handle = () => {};
    this.#socket.resume();
  }
}
