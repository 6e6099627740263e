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
  /** Resolves when the host has sent its proof; rejects when it has sent other bytes, or has disconnected before. */
  readonly proved: Promise<void>;
  /** Settles when the connection has ended. */
  readonly ended: Promise<void>;
  end(): void;
}

interface Beginning {
  /** Bytes already read. */
  readonly first?: Uint8Array;
  /** The host has to send these bytes before it is served. */
  readonly proof?: Uint8Array;
}

/** Serves the host at the other end of a device or socket, which is closed afterwards. */
export function serveDescriptor(
  descriptor: number,
  start: StartSession,
  { first = nothing, proof = nothing }: Beginning = {},
): Served {
  const onread = { buffer: received, callback: (length: number) => onRead(length) };
  const { socket, descriptor: open } = deviceSocket(descriptor, { onread });
  const proved = Promise.withResolvers<void>();
  proved.promise.catch(() => undefined);
  const ended = Promise.withResolvers<void>();
  let missing = proof;
  let session: Session | undefined;

  function begin(): void {
    session = start(socketTransport(socket));
    proved.resolve();
  }
  function onRead(length: number): boolean {
    // A callback for each page would cost more than the rest of an upload.
    const all = length === portReadBytes ? length + readFurther(open) : length;
    take(received.subarray(0, all));
    return true;
  }
  function take(bytes: Uint8Array): void {
    // Copied: the channel keeps payloads, and the next read overwrites the buffer.
    if (session !== undefined) session.receive(new Uint8Array(bytes));
    else takeProof(bytes);
  }
  function takeProof(bytes: Uint8Array): void {
    const part = bytes.subarray(0, missing.length);
    if (Buffer.compare(part, missing.subarray(0, part.length)) !== 0) return void socket.destroy();
    missing = missing.subarray(part.length);
    if (missing.length > 0) return;
    begin();
    if (bytes.length > part.length) take(bytes.subarray(part.length));
  }

  socket.on("end", () => socket.destroy());
  let cause: Error | undefined;
  socket.on("error", (error) => {
    cause = error;
    socket.destroy();
  });
  socket.once("close", () => {
    session?.close(new SandboxError("unavailable", "the host has disconnected"));
    const why = cause === undefined ? "" : ` (${cause.message})`;
    proved.reject(new SandboxError("unavailable", `the connection ended before the host had proved itself${why}`));
    ended.resolve();
  });
  if (missing.length === 0) begin();
  if (first.length > 0) take(first);
  return { proved: proved.promise, ended: ended.promise, end: () => socket.destroy() };
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

const nothing = new Uint8Array(0);
