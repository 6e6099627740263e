import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { GuestPorts } from "@opensandbox/wire/worker/ports.ts";
import { type GuestClient, invalidAnswer, untilEnd } from "./guest-client.ts";

/** The servers of the guest that `connected` returns; without a guest `connected` throws. */
export function guestPorts(connected: () => GuestClient): GuestPorts {
  return {
    async open(port, signal) {
      const stream = await connected().open(methods.connect, { port }, signal);
      const first = await stream.next();
      if (first.kind !== "message") throw invalidAnswer(stream);
      return {
        incoming: incoming(stream),
        write: (bytes) => untilEnd(stream.sendData(0, bytes)),
        end: () => untilEnd(stream.end()),
      };
    },
  };
}

async function* incoming(stream: Stream): AsyncGenerator<Uint8Array> {
  try {
    for (;;) {
      const next = await stream.next();
      if (next.kind === "end") return;
      if (next.kind !== "data") throw invalidAnswer(stream);
      yield next.payload;
    }
  } finally {
    // Reached before the end when the reader leaves; after the end this has no effect.
    stream.reset(new SandboxError("canceled", "the reader has left the connection"));
  }
}
