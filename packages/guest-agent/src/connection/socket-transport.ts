import type { Socket } from "node:net";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";

/** Writes to a socket as fast as it takes the bytes. */
export function socketTransport(socket: Socket): Transport {
  return {
    write: async (bytes) => {
      if (socket.destroyed) throw new Error("the connection is closed");
      if (socket.write(bytes)) return;
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const onClose = (): void => reject(new Error("the connection was closed"));
      socket.once("drain", resolve);
      socket.once("close", onClose);
      try {
        await promise;
      } finally {
        socket.off("drain", resolve);
        socket.off("close", onClose);
      }
    },
  };
}
