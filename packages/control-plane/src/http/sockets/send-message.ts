import type { WebSocket } from "ws";

// Above this many unsent bytes a sender waits for the client. In bytes.
const maxUnsentBytes = 2 ** 20;

/** Sends a message and returns when more may be sent. Rejects with the signal's reason. */
export async function sendMessage(socket: WebSocket, message: Uint8Array, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const sent = Promise.withResolvers<void>();
  // Called when the kernel has the bytes, in order. An error means that the connection is gone.
  socket.send(message, () => sent.resolve());
  if (socket.bufferedAmount > maxUnsentBytes) await sent.promise;
  signal.throwIfAborted();
}
