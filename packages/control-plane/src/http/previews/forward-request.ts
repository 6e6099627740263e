import { request as startRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Use } from "#lifecycle/activity.ts";
import { answerHeaders } from "./preview-headers.ts";

export interface Forward {
  readonly request: IncomingMessage;
  /** To the server in the sandbox; nothing else goes over it. */
  readonly stream: Duplex;
  readonly use: Use;
  readonly headers: readonly string[];
  /** How long the server may take to begin its answer. */
  readonly timeoutMs: number;
}

/**
 * Sends a request to a server in a sandbox and its answer back, both as they come: nothing is kept beyond what the two
 * sides have not taken yet. Settles when all of it is over; rejects when no answer has begun.
 */
export async function forwardRequest({
  request,
  response,
  stream,
  use: held,
  headers,
  timeoutMs,
}: Forward & { readonly response: ServerResponse }): Promise<void> {
  using use = held;
  const upstream = startRequest({
    method: request.method,
    path: targetOf(request),
    headers: [...headers],
    setHost: false,
    createConnection: () => stream,
  });
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const timer = setTimeout(() => reject(tooLate(timeoutMs)), timeoutMs);
  upstream.once("response", resolve);
  // Also after the answer has begun: a server need not read a request to its end.
  upstream.on("error", (cause) => reject(broken(cause)));
  response.once("close", () => reject(new SandboxError("canceled", "the caller went away")));
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
    // At once: an event stream may have nothing to say for long.
    response.flushHeaders();
    // Who waits for events keeps no sandbox awake by that, only by events.
    if ((answer.headers["content-type"] ?? "").startsWith("text/event-stream")) use[Symbol.dispose]();
    await passOn(answer, response, use);
  } finally {
    clearTimeout(timer);
    upstream.destroy();
    stream.destroy();
  }
}

/** The path that was asked for; a client that takes this server for a proxy writes the host before it. */
function targetOf({ url = "/" }: IncomingMessage): string {
  return url.startsWith("/") || !URL.canParse(url) ? url : new URL(url).pathname + new URL(url).search;
}

/** What breaks off in the middle is broken off for the caller too, who would take it for whole. */
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
  return new SandboxError("unavailable", "the server in the sandbox broke the connection off", { cause });
}

export function tooLate(timeoutMs: number): SandboxError {
  const message = `the server in the sandbox did not begin to answer within ${timeoutMs / 1000} seconds`;
  return new SandboxError("timed_out", message);
}
