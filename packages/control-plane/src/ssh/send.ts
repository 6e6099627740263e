import type { Writable } from "node:stream";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { ServerChannel } from "ssh2";
import type { SocketGuard } from "./guard-socket.ts";

/** A channel with its client: everything that writing to it depends on. */
export interface OpenChannel {
  readonly channel: ServerChannel;
  readonly guard: SocketGuard;
  /** Aborted when the channel or its connection has closed. */
  readonly closed: AbortSignal;
}

/**
 * Writes to a channel, or to its standard error, and waits until the client has room for more. Each channel has one
 * writer at a time: the library cannot wait for room in both streams at once.
 */
export async function send(
  { channel, guard, closed }: OpenChannel,
  pipe: "stdout" | "stderr",
  bytes: Uint8Array,
): Promise<void> {
  const stream: Writable = pipe === "stdout" ? channel : channel.stderr;
  const written = new Promise<void>((resolve, reject) => {
    stream.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
  // The library forgets the callback of a channel that closes meanwhile.
  await orAborted(written, closed);
  // It also keeps a piece that had to wait, and would send it again when the other stream waits.
  Object.assign(channel, { _chunk: undefined, _chunkcb: undefined, _chunkErr: undefined, _chunkcbErr: undefined });
  await guard.flushed(closed);
}

/** What the client sends, until it ends its side. The channel stays open for the other direction. */
export function receivedBy(channel: ServerChannel): AsyncIterable<Buffer> {
  return channel.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
}
