import type { Socket } from "node:net";

/** Settles when the socket has room for more, or has closed. */
export async function untilDrained(socket: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.once("drain", resolve);
  socket.once("close", resolve);
  try {
    await promise;
  } finally {
    socket.off("drain", resolve);
    socket.off("close", resolve);
  }
}
