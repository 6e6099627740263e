import { deferred } from "./deferred.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A WebSocket as a stream of messages. */
export interface Socket {
  /** Ends when the peer closed with code 1000 or {@link close} was called; throws `unavailable` for any other end. */
  readonly messages: AsyncIterable<string | Uint8Array>;
  /** Resolves when there is room for more. */
  send(data: string | Uint8Array): Promise<void>;
  close(): void;
}

/** Opens a WebSocket; resolves when it is open. An abort, then or later, closes it. */
export type OpenSocket = (url: string, signal?: AbortSignal) => Promise<Socket>;

// Room for what one round trip carries; more would only be held in memory.
const sendBufferBytes = 1024 * 1024;

/**
 * A socket over the global `WebSocket`. That one cannot pause: what a peer sends is held in memory
 * until it is taken. Where output is larger than memory, give `connect` a socket that can.
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
      // There is no event for it: the WebSocket of the web platform can only be asked.
      while (socket.bufferedAmount > sendBufferBytes && socket.readyState === WebSocket.OPEN) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    close: () => socket.close(),
  };
}

/** What a close code means to the one who reads messages. */
export function errorOfClose(code: number, reason: string): SandboxError | undefined {
  if (code === 1000) return undefined;
  const text = reason === "" ? `code ${code}` : `${reason} (code ${code})`;
  return new SandboxError("unavailable", `the connection to the server ended: ${text}`);
}

/** What the refusal of an upgrade means: it is answered as any other request. */
export { errorFromReply as errorOfRefusal } from "./http.ts";

export interface MessageQueue {
  readonly messages: AsyncIterable<string | Uint8Array>;
  push(message: string | Uint8Array): void;
  end(error: Error | undefined): void;
  /** Messages that nobody has taken yet. */
  readonly length: number;
}

/** Turns events into an iteration. `onTaken` is called after each message that leaves the queue. */
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
