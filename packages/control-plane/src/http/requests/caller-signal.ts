import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyReply } from "fastify";

/** Aborted when the client disconnects before the whole answer was sent, or when the server shuts down. */
export function callerSignal(reply: FastifyReply, ending: AbortSignal): AbortSignal {
  const gone = new AbortController();
  reply.raw.once("close", () => {
    if (reply.raw.writableFinished) return;
    gone.abort(new SandboxError("canceled", "the client disconnected"));
  });
  return AbortSignal.any([gone.signal, ending]);
}
