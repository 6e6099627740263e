import { describeError, errorCodes, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { errorReplyOf, type ErrorReply } from "@opensandbox/wire/public/error-reply.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

type FailureContext = Pick<SandboxContext, "log" | "shutdown">;

// Long enough for capacity to become free, short enough not to be noticed.
const retryAfterSeconds = "1";

/** Answers every failure as JSON of one form, with the status of its code. */
export function replyErrors(app: FastifyInstance, context: FailureContext): void {
  app.setErrorHandler((thrown, request, reply) => replyFailure(thrown, request, reply, context));
  app.setNotFoundHandler((request, reply) => {
    const [path = ""] = request.url.split("?");
    const message = `there is no route ${request.method} ${path}: see /openapi.json`;
    return reply.status(404).send({ error: message, code: "not_found" } satisfies ErrorReply);
  });
}

export function replyFailure(
  thrown: unknown,
  request: Pick<FastifyRequest, "id">,
  reply: Pick<FastifyReply, "header" | "status">,
  context: FailureContext,
): FastifyReply {
  const { status, body } = failureOf(thrown, request.id, context);
  if (body.retryable) reply.header("retry-after", retryAfterSeconds);
  return reply.status(status).send(body);
}

/** The answer to a failure. Unexpected errors go to the log and are answered with the request's id only. */
export function failureOf(
  thrown: unknown,
  requestId: string,
  { log, shutdown }: FailureContext,
): { status: number; body: ErrorReply } {
  const error = knownError(thrown, shutdown.ending);
  if (error === undefined) {
    log("error", "unexpected error", { requestId, ...describeError(thrown) });
    const body = {
      error: `internal error: see the server's log for ${requestId}`,
      code: "internal" as const,
      requestId,
    };
    return { status: 500, body };
  }
  const { status } = errorCodes[error.code];
  const body = errorReplyOf(error);
  if (status < 500 || error.code === "not_supported") return { status, body };
  log("warn", "request failed", { requestId, ...describeError(error) });
  return { status, body: { ...body, requestId } };
}

function knownError(thrown: unknown, ending: AbortSignal): SandboxError | undefined {
  // During the shutdown every interrupted operation fails for this reason, whatever it reports.
  if (ending.aborted && isSandboxError(ending.reason)) return ending.reason;
  if (isSandboxError(thrown)) return thrown;
  // The first failure is the answer; the failed cleanup after it is in the log.
  if (thrown instanceof SuppressedError && isSandboxError(thrown.suppressed)) return thrown.suppressed;
  return httpError(thrown);
}

/** A refusal of the HTTP library, such as a path that cannot be decoded. */
function httpError(thrown: unknown): SandboxError | undefined {
  if (!(thrown instanceof Error) || !("statusCode" in thrown)) return undefined;
  const { statusCode } = thrown;
  if (typeof statusCode !== "number" || statusCode < 400 || statusCode >= 500) return undefined;
  return new SandboxError("invalid_argument", thrown.message, { cause: thrown });
}
