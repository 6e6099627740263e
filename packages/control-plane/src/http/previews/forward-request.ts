import { request as startRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Use } from "#lifecycle/activity.ts";
import { answerHeaders } from "./preview-headers.ts";

export interface Forward {
  readonly request: IncomingMessage;
  /** A connection to the server in the sandbox, for this request alone. */
  readonly stream: Duplex;
  readonly use: Use;
  /** The path and query that the server is asked for. */
  readonly path: string;
  readonly headers: readonly string[];
  /** How long the server may take to begin its answer. */
  readonly timeoutMs: number;
}

/**
 * Forwards a request to a server in a sandbox and streams the answer back, with back-pressure both ways. Settles when the
 * exchange has ended. Rejects when no answer has begun.
 */
export async function forwardRequest({
  request,
  response,
  stream,
  use: held,
  path,
  headers,
  timeoutMs,
}: Forward & { readonly response: ServerResponse }): Promise<void> {
  using use = held;
  const upstream = startRequest({
    method: request.method,
    path,
    headers: [...headers],
    setHost: false,
    createConnection: () => stream,
  });
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const timer = setTimeout(() => reject(tooLate(timeoutMs)), timeoutMs);
  upstream.once("response", resolve);
  upstream.once("upgrade", (answer) => reject(broken(`it answered ${answer.statusCode} unasked`)));
  // An error may come after the answer has begun: a server need not read the request to its end.
  upstream.on("error", (cause) => reject(broken(cause)));
  response.once("close", () => reject(new SandboxError("canceled", "the client disconnected")));
  request.on("data", () => use.touch());
  request.on("error", () => upstream.destroy());
  request.pipe(upstream);
  try {
    const answer = await promise;
    clearTimeout(timer);
    response.writeHead(
      answer.statusCode ?? 502,
      answer.statusMessage,
      answerHeaders(answer.rawHeaders, request.headers.host),
    );
    // The head is sent at once, since the first event of a stream may come much later.
    response.flushHeaders();
    // An open event stream keeps no sandbox awake; each event does.
    if ((answer.headers["content-type"] ?? "").startsWith("text/event-stream")) use[Symbol.dispose]();
    await passOn(answer, response, use);
  } finally {
    clearTimeout(timer);
    upstream.destroy();
    stream.destroy();
  }
}

/** Streams the answer. When it breaks off, the client's connection is cut too, so that the answer cannot look complete. */
async function passOn(answer: IncomingMessage, response: ServerResponse, use: Use): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  answer.on("data", () => use.touch());
  answer.once("error", () => response.destroy());
  answer.once("close", () => {
    if (!answer.complete) response.destroy();
  });
  response.once("close", resolve);
  response.once("finish", resolve);
  answer.pipe(response);
  await promise;
}

export function broken(cause: unknown): SandboxError {
  return new SandboxError("unavailable", "the server in the sandbox closed the connection before it answered", {
    cause,
  });
}

export function tooLate(timeoutMs: number): SandboxError {
  const message = `the server in the sandbox did not begin its answer within ${timeoutMs / 1000} seconds`;
  return new SandboxError("timed_out", message);
}
