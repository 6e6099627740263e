import { readvSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import type { Session } from "#server.ts";
import { deviceSocket } from "#system/kernel/device-socket.ts";
import { socketTransport } from "./socket-transport.ts";

/** Starts to serve the host at the other end of a transport. */
export type StartSession = (transport: Transport) => Session;

/** A read of a virtio-serial port returns at most one buffer of its driver, which is a page (drivers/char/virtio_console.c). */
const portReadBytes = 4096;

/** Receives every read of every connection; its content is copied at once. */
const received = Buffer.alloc(16 * portReadBytes);

/** The pages of {@link received} behind the first: readv(2) reads the port once for each. */
const furtherPages = Array.from({ length: received.length / portReadBytes - 1 }, (_, index) =>
  received.subarray((index + 1) * portReadBytes, (index + 2) * portReadBytes),
);

/** A connection to a host. */
export interface Served {
  /** Settles when the connection has ended. */
  readonly ended: Promise<void>;
  end(): void;
}

/** Serves the host at the other end of a device or socket, which is closed afterwards. `first`: bytes already read. */
export function serveDescriptor(descriptor: number, first: Uint8Array, start: StartSession): Served {
  const onread = { buffer: received, callback: (length: number) => take(length) };
  const { socket, descriptor: open } = deviceSocket(descriptor, { onread });
  const session = start(socketTransport(socket));
  const take = (length: number): boolean => {
    // A callback for each page would cost more than the rest of an upload.
    const all = length === portReadBytes ? length + readFurther(open) : length;
    // Copied: the channel keeps payloads, and the next read overwrites the buffer.
    session.receive(new Uint8Array(received.subarray(0, all)));
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

/** Reads what the descriptor has into {@link furtherPages}, without waiting. Returns the number of bytes. */
function readFurther(descriptor: number): number {
  try {
    return readvSync(descriptor, furtherPages);
  } catch (error) {
    // The socket's own next read reports an error or the end.
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") console.error(`agent channel: ${String(error)}`);
    return 0;
  }
}
