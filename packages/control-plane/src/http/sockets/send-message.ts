import type { WebSocket } from "ws";

// Above this whoever sends waits until the client has read.
const unsentLimit = 2 ** 20;

/** Returns when more may be sent. Rejects with the signal's reason. */
export async function sendMessage(socket: WebSocket, message: Uint8Array, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const sent = Promise.withResolvers<void>();
  // The callback comes when the system has the bytes, in order; an error means that the connection is gone.
  socket.send(message, () => sent.resolve());
  if (socket.bufferedAmount > unsentLimit) await sent.promise;
  signal.throwIfAborted();
}
