import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyReply } from "fastify";

/** Aborted when the caller goes away before it has the whole answer, or when the server ends. */
export function callerSignal(reply: FastifyReply, ending: AbortSignal): AbortSignal {
  const gone = new AbortController();
  reply.raw.once("close", () => {
    if (reply.raw.writableFinished) return;
    gone.abort(new SandboxError("canceled", "the caller went away"));
  });
  return AbortSignal.any([gone.signal, ending]);
}
