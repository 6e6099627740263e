import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { WebSocket } from "ws";
import { deferred } from "./deferred.ts";
import { errorOfClose, errorOfRefusal, messageQueue } from "./socket.ts";
import type { Socket } from "./socket.ts";

// A message carries at most about 64 KiB of output, so that the queue stays near 1 MiB.
const maxQueued = 16;

/**
 * Opens a WebSocket of Node.js with back-pressure: it stops reading while its queue is full, so that a fast command waits
 * for its reader.
 */
export async function openPausingSocket(url: string, signal?: AbortSignal): Promise<Socket> {
  // Imported here, so that browsers never load it.
  const { WebSocket } = await import("ws");
  const socket = new WebSocket(url, { perMessageDeflate: false });
  const queue = messageQueue(() => {
    if (queue.length < maxQueued) socket.resume();
  });
  socket.on("message", (data: Buffer, isBinary) => {
    queue.push(isBinary ? data : data.toString("utf8"));
    if (queue.length >= maxQueued) socket.pause();
  });
  socket.on("close", (code, reason) => queue.end(errorOfClose(code, reason.toString("utf8"))));
  // Without the closing handshake: a paused socket would never read the peer's half.
  const abort = (): void => socket.terminate();
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted === true) abort();
  try {
    await opened(socket);
  } catch (cause) {
    if (signal?.aborted === true) throw new SandboxError("canceled", "canceled", { cause });
    throw cause;
  }
  return {
    messages: queue.messages,
    send: async (data) => {
      const { promise, resolve, reject } = deferred<void>();
      socket.send(data, (error) => {
        if (error)
          reject(
            new SandboxError("unavailable", `the connection to the server ended: ${error.message}`, { cause: error }),
          );
        else resolve();
      });
      await promise;
    },
    close: () => {
      signal?.removeEventListener("abort", abort);
      socket.terminate();
    },
  };
}

async function opened(socket: WebSocket): Promise<void> {
  const { promise, resolve, reject } = deferred<void>();
  socket.once("open", () => resolve());
  socket.on("error", (cause) => {
    const message = `cannot open a WebSocket to ${new URL(socket.url).origin}: ${cause.message}`;
    reject(new SandboxError("unavailable", message, { cause }));
  });
  socket.once("unexpected-response", (_request, response) => {
    let text = "";
    response.setEncoding("utf8");
    response.on("data", (chunk: string) => (text += chunk));
    response.once("close", () => {
      reject(errorOfRefusal(response.statusCode ?? 0, text));
      socket.terminate();
    });
  });
  await promise;
}
