import { once } from "node:events";
import type { Socket } from "node:net";
import type { ServerChannel } from "ssh2";

/** Bytes that may wait to be sent before no more requests are read. */
const maxUnsent = 4 * 2 ** 20;
/** Bytes of one channel that may wait to be read: the window of 2 MiB that the client is given, twice. */
const maxUnread = 4 * 2 ** 20;
/** The smallest packets that a client may ask for: the library never ends the writing of a packet of 0 bytes. */
const minPacket = 256;

/** What the library leaves to its user: bounds on what a client can make this process hold. */
export interface SocketGuard {
  /** Watches a channel until it closes. Returns false, and ends the connection, for one that cannot be written to. */
  watch(channel: ServerChannel): boolean;
  /** Resolves when the client has read enough that more may be sent. */
  flushed(signal: AbortSignal): Promise<void>;
}

interface Outgoing {
  readonly packetSize?: number;
}

/** Ends the connection of a client that ignores its windows, and reads no more from one that reads nothing. */
export function guardSocket(socket: Socket): SocketGuard {
  const channels = new Set<ServerChannel>();
  socket.on("data", () => {
    for (const channel of channels) if (channel.readableLength > maxUnread) socket.destroy();
    if (socket.writableLength <= maxUnsent || socket.destroyed) return;
    socket.pause();
    socket.once("drain", () => socket.resume());
  });
  return {
    watch(channel) {
      const { packetSize = 0 } = channel.outgoing as Outgoing;
      if (packetSize < minPacket) {
        socket.destroy();
        return false;
      }
      channels.add(channel);
      channel.once("close", () => channels.delete(channel));
      return true;
    },
    async flushed(signal) {
      if (socket.writableNeedDrain) await once(socket, "drain", { signal });
    },
  };
}
