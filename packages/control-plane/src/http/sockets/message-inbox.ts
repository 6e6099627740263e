import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { WebSocket } from "ws";
import { withinConnection } from "#http/connection-boundary.ts";
import type { Log } from "../../log.ts";

export interface Message {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/**
 * Takes the messages of a paused WebSocket: first a single one, then all others. One read of the socket may hold
 * several messages, which arrive although the socket is paused; they wait here. A handler that throws ends its own
 * socket only.
 */
export class MessageInbox {
  readonly #socket: WebSocket;
  readonly #waiting: Message[] = [];
  #handle: (message: Message) => void = (message) => {
    this.#waiting.push(message);
  };

  constructor(socket: WebSocket, log: Log) {
    this.#socket = socket;
    const connection = { destroy: () => socket.terminate() };
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      withinConnection(connection, log, () => this.#handle({ data, isBinary }));
    });
  }

  /** The first message. The socket is paused again when it arrives. Rejects with the signal's reason. */
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
    // Resumed before the waiting messages are handled, since one of them may pause the socket again.
    this.#socket.resume();
    for (const message of this.#waiting.splice(0)) handle(message);
  }

  /** Drops further messages but keeps reading, so that the client's half of the close arrives. */
  close(): void {
    this.#handle = () => {};
    this.#socket.resume();
  }
}
