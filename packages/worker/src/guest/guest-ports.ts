import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { PortConnection } from "@opensandbox/wire/worker/worker.ts";
import type { GuestClient } from "./guest-client.ts";

/** Connects to a server in the guest; settles when it has accepted. */
export async function openPort(guest: GuestClient, port: number, signal: AbortSignal): Promise<PortConnection> {
  const stream = await guest.open(methods.connect, { port }, signal);
  const first = await stream.next();
  if (first.kind !== "message") {
    const error = new SandboxError("unavailable", "the guest agent does not say that it is connected");
    stream.reset(error);
    throw error;
  }
  return {
    incoming: incoming(stream),
    write: (bytes) => untilEnd(stream.sendData(0, bytes)),
    end: () => untilEnd(stream.end()),
  };
}

/** A server that has ended its side takes nothing more: that is no error of the sender's. */
async function untilEnd(sending: Promise<void>): Promise<void> {
  try {
    await sending;
  } catch (error) {
    if (asSandboxError(error).code !== "canceled") throw error;
  }
}

async function* incoming(stream: Stream): AsyncGenerator<Uint8Array> {
  try {
    for (;;) {
      const next = await stream.next();
      if (next.kind === "end") return;
      if (next.kind === "data") yield next.payload;
    }
  } finally {
    // Reached early when nobody reads any more; after the end it does nothing.
    stream.reset(new SandboxError("canceled", "the connection is not read any more"));
  }
}
