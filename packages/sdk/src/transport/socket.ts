import { deferred } from "./deferred.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A WebSocket as a stream of messages. */
export interface Socket {
  /** Ends when the peer closes with code 1000 or after {@link close}. Throws `unavailable` for any other end. */
  readonly messages: AsyncIterable<string | Uint8Array>;
  /** Resolves when more may be sent. */
  send(data: string | Uint8Array): Promise<void>;
  close(): void;
}

/** Opens a WebSocket. Resolves when it is open. Aborting the signal, even later, closes it. */
export type OpenSocket = (url: string, signal?: AbortSignal) => Promise<Socket>;

// Enough to fill one round trip; more would only occupy memory.
const sendBufferBytes = 1024 * 1024;

/**
 * Opens the global `WebSocket`. It cannot pause: messages stay in memory until they are read. For output larger than
 * memory, give `connect` an `openSocket` with back-pressure.
 */
export async function openGlobalSocket(url: string, signal?: AbortSignal): Promise<Socket> {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const queue = messageQueue();
  socket.addEventListener("message", ({ data }: { data: string | ArrayBuffer }) => {
    queue.push(typeof data === "string" ? data : new Uint8Array(data));
  });
  socket.addEventListener("close", ({ code, reason }) => queue.end(errorOfClose(code, reason)));
  const abort = (): void => socket.close();
  signal?.addEventListener("abort", abort, { once: true });

  const { promise: opened, resolve, reject } = deferred<void>();
  socket.addEventListener("open", () => resolve());
  socket.addEventListener("error", () => {
    reject(new SandboxError("unavailable", `cannot open a WebSocket to ${new URL(url).origin}`));
  });
  if (signal?.aborted === true) abort();
  await opened;

  return {
    messages: queue.messages,
    async send(data) {
      socket.send(typeof data === "string" ? data : new Uint8Array(data));
      // The web platform's WebSocket has no event for a drained buffer.
      while (socket.bufferedAmount > sendBufferBytes && socket.readyState === WebSocket.OPEN) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    close: () => socket.close(),
  };
}

/** The error that a close code stands for; undefined for a normal end. */
export function errorOfClose(code: number, reason: string): SandboxError | undefined {
  if (code === 1000) return undefined;
  const text = reason === "" ? `code ${code}` : `${reason} (code ${code})`;
  return new SandboxError("unavailable", `the connection to the server ended: ${text}`);
}

/** The error of a refused upgrade: the server answers it like any other request. */
export { errorFromReply as errorOfRefusal } from "./http.ts";

export interface MessageQueue {
  readonly messages: AsyncIterable<string | Uint8Array>;
  push(message: string | Uint8Array): void;
  end(error: Error | undefined): void;
  /** Messages that have not been read yet. */
  readonly length: number;
}

/** Turns events into an iteration. Calls `onTaken` after each message that leaves the queue. */
export function messageQueue(onTaken: () => void = () => undefined): MessageQueue {
  const waiting: (string | Uint8Array)[] = [];
  let ended: { error: Error | undefined } | undefined;
  let wake = (): void => undefined;
  return {
    get length() {
      return waiting.length;
    },
    push(message) {
      waiting.push(message);
      wake();
    },
    end(error) {
      ended ??= { error };
      wake();
    },
    messages: {
      async *[Symbol.asyncIterator]() {
        while (true) {
          const message = waiting.shift();
          if (message !== undefined) {
            onTaken();
            yield message;
          } else if (ended === undefined) {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          } else if (ended.error === undefined) {
            return;
          } else {
            throw ended.error;
          }
        }
      },
    },
  };
}
