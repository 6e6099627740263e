import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { WebSocket } from "ws";

export interface Message {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/**
 * The messages of a paused WebSocket: the first one, then the others. One read of the socket may carry several, which
 * arrive even when the socket is paused in between and wait here.
 */
export class MessageInbox {
  readonly #socket: WebSocket;
  readonly #waiting: Message[] = [];
  #handle: (message: Message) => void = (message) => this.#waiting.push(message);

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer, isBinary: boolean) => this.#handle({ data, isBinary }));
  }

  /** The first message, after which the socket is paused again. Rejects with the signal's reason. */
  async first(signal: AbortSignal): Promise<Message> {
    const first = Promise.withResolvers<Message>();
    const keep = this.#handle;
    this.#handle = (message) => {
      this.#handle = keep;
      this.#socket.pause();
      first.resolve(message);
    };
    signal.throwIfAborted();
    this.#socket.resume();
    return await orAborted(first.promise, signal);
  }

  /** Passes every further message to `handle`. */
  forEach(handle: (message: Message) => void): void {
    this.#handle = handle;
    // Before the waiting messages are handled: one of them may pause the socket.
    this.#socket.resume();
    for (const message of this.#waiting.splice(0)) handle(message);
  }

  /** Drops further messages, so that the client's side of the close is received. */
  close(): void {
    this.#handle = () => {};
    this.#socket.resume();
  }
}
