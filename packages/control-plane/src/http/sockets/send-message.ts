import type { WebSocket } from "ws";

// Above this many unsent bytes the sender waits for the client.
const unsentLimit = 2 ** 20;

/** Sends a message; settles when more may be sent. Rejects with the signal's reason. */
export async function sendMessage(socket: WebSocket, message: Uint8Array, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const sent = Promise.withResolvers<void>();
  // The callback comes, in order, when the kernel has the bytes; an error means that the connection is gone.
  socket.send(message, () => sent.resolve());
  if (socket.bufferedAmount > unsentLimit) await sent.promise;
  signal.throwIfAborted();
}
