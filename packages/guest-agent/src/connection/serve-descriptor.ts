import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import type { Session } from "#server.ts";
import { deviceSocket } from "#system/kernel/device-socket.ts";
import { socketTransport } from "./socket-transport.ts";

/** Starts to serve the host at the other end of a transport. */
export type StartSession = (transport: Transport) => Session;

/** Receives every read of every connection; its content is copied at once. */
const received = Buffer.alloc(64 * 1024);

/** A connection to a host. */
export interface Served {
  /** Settles when the connection has ended. */
  readonly ended: Promise<void>;
  end(): void;
}

/** Serves the host at the other end of a device or socket, which is closed afterwards. `first`: bytes already read. */
export function serveDescriptor(descriptor: number, first: Uint8Array, start: StartSession): Served {
  const { socket } = deviceSocket(descriptor, { onread: { buffer: received, callback: (length) => take(length) } });
  const session = start(socketTransport(socket));
  const take = (length: number): boolean => {
    // Copied: the channel keeps payloads, and the next read overwrites the buffer.
    session.receive(new Uint8Array(received.subarray(0, length)));
    return true;
  };
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.on("end", () => socket.destroy());
  socket.on("error", () => socket.destroy());
  socket.once("close", () => {
    session.close(new SandboxError("unavailable", "the host has disconnected"));
    resolve();
  });
  if (first.length > 0) session.receive(first);
  return { ended: promise, end: () => socket.destroy() };
}
