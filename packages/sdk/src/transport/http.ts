import { errorCodes, errorFromWire, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ErrorCode } from "@opensandbox/wire/errors.ts";
import { retrying } from "./retry.ts";
import { pathOf } from "@opensandbox/wire/route.ts";
import type { Route } from "@opensandbox/wire/route.ts";

export interface CallOptions<Body, Query> {
  /** What stands for the `:name`s of the route's path. */
  readonly parameters?: Readonly<Record<string, string>>;
  readonly query?: Query;
  readonly body?: Body;
  readonly bytes?: ReadableStream<Uint8Array> | Uint8Array | string;
  readonly headers?: Readonly<Record<string, string>>;
  /** The server makes it once, however often it comes: it is sent again after a failure that passes. */
  readonly idempotent?: boolean;
}

/** Speaks to one server with one key. */
export interface HttpClient {
  /** A reply of status 2xx; its body is the caller's to read. */
  send<Body, Query>(
    route: Route<Body, Query>,
    options?: CallOptions<Body, Query>,
    signal?: AbortSignal,
  ): Promise<Response>;
  /** The reply of a route, checked against its schema; of a route without one, nothing. */
  call<Body, Query, Reply>(
    route: Route<Body, Query, Reply>,
    options?: CallOptions<Body, Query>,
    signal?: AbortSignal,
  ): Promise<Reply>;
  /** The reply of a route that is no JSON, whole. */
  text(route: Route, options?: CallOptions<unknown, unknown>, signal?: AbortSignal): Promise<string>;
  /** Address of a WebSocket; the key is in the query, since a WebSocket has no headers. */
  socketUrl(route: Route, parameters: Readonly<Record<string, string>>): string;
}

export function httpClient(url: string, apiKey: string | undefined): HttpClient {
  // Paths of routes begin with /api.
  const server = url.replace(/\/+$/, "").replace(/\/api$/, "");

  async function send<Body, Query>(
    route: Route<Body, Query>,
    options: CallOptions<Body, Query> = {},
    signal?: AbortSignal,
  ): Promise<Response> {
    const repeats = options.idempotent === true || route.method === "GET" || route.method === "HEAD";
    // The same for each attempt.
    const key = options.idempotent === true ? { "Idempotency-Key": crypto.randomUUID() } : {};
    const once = async (): Promise<Response> => {
      const target = new URL(server + pathOf(route, options.parameters));
      for (const [name, value] of Object.entries<string | undefined>(options.query ?? {})) {
        if (value !== undefined) target.searchParams.set(name, value);
      }
      const body = options.body === undefined ? options.bytes : JSON.stringify(options.body);
      const type = options.body === undefined ? "application/octet-stream" : "application/json";
      return await fetch(target, {
        method: route.method,
        headers: {
          ...(apiKey === undefined ? {} : { "X-API-Key": apiKey }),
          ...(body === undefined ? {} : { "Content-Type": type }),
          ...key,
          ...options.headers,
        },
        // Without `half` a stream is refused as a body.
        ...(body === undefined ? {} : { body: body as string, duplex: "half" as const }),
        ...(signal === undefined ? {} : { signal }),
      });
    };
    // Of `fetch`: it has not reached the server, or not heard from it.
    const isUnreachable = (error: unknown): boolean => error instanceof TypeError;
    const response = await translate(
      server,
      signal,
      repeats ? async () => await retrying(once, isUnreachable, signal) : once,
    );
    if (!response.ok) throw errorFromReply(response.status, await response.text().catch(() => ""));
    return response;
  }

  return {
    send,
    async call<Body, Query, Reply>(
      route: Route<Body, Query, Reply>,
      options: CallOptions<Body, Query> = {},
      signal?: AbortSignal,
    ): Promise<Reply> {
      const response = await send(route, options, signal);
      const text = await translate(server, signal, async () => await response.text());
      return replyOf(route, text);
    },
    async text(route, options = {}, signal) {
      const response = await send(route, options, signal);
      return await translate(server, signal, async () => await response.text());
    },
    socketUrl(route, parameters) {
      const query = apiKey === undefined ? "" : `?api_key=${encodeURIComponent(apiKey)}`;
      return server.replace(/^http/, "ws") + pathOf(route, parameters) + query;
    },
  };
}

/** The text of a reply as the route's type. */
export function replyOf<Reply>(route: Pick<Route<unknown, unknown, Reply>, "name" | "reply">, text: string): Reply {
  if (route.reply === undefined) return undefined as Reply;
  const result = route.reply.safeParse(parseJson(text));
  if (result.success) return result.data;
  // A long run has sent its status before it could fail.
  const error = parseError(text);
  if (error !== undefined) throw errorFromReply(500, text);
  throw new SandboxError("internal", `the server's reply to ${route.name} is not what this version expects`, {
    cause: result.error,
  });
}

/** What a failed `fetch`, or the failed reading of its body, means. */
export async function translate<T>(
  server: string,
  signal: AbortSignal | undefined,
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (isSandboxError(cause)) throw cause;
    if (signal?.aborted === true) throw new SandboxError("canceled", "canceled", { cause });
    throw new SandboxError("unavailable", `cannot reach ${server}: ${reasonOf(cause)}`, { cause });
  }
}

/** Rebuilds the error of a reply `{error, code}`; a reply that is not ours is judged by its status. */
export function errorFromReply(status: number, text: string): SandboxError {
  const wire = parseError(text);
  const message = wire?.error ?? (text.trim().slice(0, 200) || `the server answered with status ${status}`);
  return errorFromWire({ code: wire?.code ?? codeOfStatus(status), message, details: wire?.details });
}

function parseError(text: string): { error: string; code?: string; details?: unknown } | undefined {
  const value = parseJson(text);
  if (typeof value !== "object" || value === null || !("error" in value)) return undefined;
  if (typeof value.error !== "string" || value.error === "") return undefined;
  return {
    error: value.error,
    ...("code" in value && typeof value.code === "string" ? { code: value.code } : {}),
    ...("details" in value ? { details: value.details } : {}),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function codeOfStatus(status: number): ErrorCode {
  const found = Object.entries(errorCodes).find(([, facts]) => facts.status === status);
  return found === undefined ? "internal" : (found[0] as ErrorCode);
}

/** `fetch failed` says nothing; its cause does. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.map(reasonOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : reasonOf(error.cause);
}
