import { errorCodes, errorFromWire, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ErrorCode } from "@opensandbox/wire/errors.ts";
import { retrying } from "./retry.ts";
import { pathOf } from "@opensandbox/wire/route.ts";
import type { Route } from "@opensandbox/wire/route.ts";

export interface CallOptions<Body, Query> {
  /** Values for the `:name` parts of the route's path. */
  readonly parameters?: Readonly<Record<string, string>>;
  readonly query?: Query;
  readonly body?: Body;
  readonly bytes?: ReadableStream<Uint8Array> | Uint8Array | string;
  readonly headers?: Readonly<Record<string, string>>;
  /** The request carries an idempotency key, so that it can be retried after a transient failure. */
  readonly idempotent?: boolean;
}

/** Requests to one server with one key. */
export interface HttpClient {
  /** A reply of status 2xx. The caller reads its body. */
  send<Body, Query>(
    route: Route<Body, Query>,
    options?: CallOptions<Body, Query>,
    signal?: AbortSignal,
  ): Promise<Response>;
  /** The reply of a route, checked against its schema; undefined for a route without one. */
  call<Body, Query, Reply>(
    route: Route<Body, Query, Reply>,
    options?: CallOptions<Body, Query>,
    signal?: AbortSignal,
  ): Promise<Reply>;
  /** The text of a reply that is not JSON. */
  text(route: Route, options?: CallOptions<unknown, unknown>, signal?: AbortSignal): Promise<string>;
  /** The address of a WebSocket. It contains the key: browsers cannot set headers on a WebSocket. */
  socketUrl(route: Route, parameters: Readonly<Record<string, string>>): Promise<string>;
}

/** A key, or a function that returns the key for the next request. */
export type ApiKey = string | (() => string | Promise<string>);

export function httpClient(url: string, apiKey: ApiKey | undefined): HttpClient {
  const currentKey = async (): Promise<string | undefined> => (typeof apiKey === "function" ? await apiKey() : apiKey);
  // The paths of routes start with /api.
  const server = url.replace(/\/+$/, "").replace(/\/api$/, "");

  async function send<Body, Query>(
    route: Route<Body, Query>,
    options: CallOptions<Body, Query> = {},
    signal?: AbortSignal,
  ): Promise<Response> {
    const repeats = options.idempotent === true || route.method === "GET" || route.method === "HEAD";
    // All attempts carry the same key.
    const key = options.idempotent === true ? { "Idempotency-Key": crypto.randomUUID() } : {};
    const once = async (): Promise<Response> => {
      const sentKey = await currentKey();
      const target = new URL(server + pathOf(route, options.parameters));
      for (const [name, value] of Object.entries<string | undefined>(options.query ?? {})) {
        if (value !== undefined) target.searchParams.set(name, value);
      }
      const body = options.body === undefined ? options.bytes : JSON.stringify(options.body);
      const type = options.body === undefined ? "application/octet-stream" : "application/json";
      return await fetch(target, {
        method: route.method,
        headers: {
          ...(sentKey === undefined ? {} : { "X-API-Key": sentKey }),
          ...(body === undefined ? {} : { "Content-Type": type }),
          ...key,
          ...options.headers,
        },
        // `fetch` accepts a stream as a body only with `half`.
        ...(body === undefined ? {} : { body: body as string, duplex: "half" as const }),
        ...(signal === undefined ? {} : { signal }),
      });
    };
    // `fetch` throws a TypeError when it cannot reach the server or receives no reply.
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
    async socketUrl(route, parameters) {
      const sentKey = await currentKey();
      const query = sentKey === undefined ? "" : `?api_key=${encodeURIComponent(sentKey)}`;
      return server.replace(/^http/, "ws") + pathOf(route, parameters) + query;
    },
  };
}

/** Parses a reply as the route's type. @throws the error that the text carries */
export function replyOf<Reply>(route: Pick<Route<unknown, unknown, Reply>, "name" | "reply">, text: string): Reply {
  if (route.reply === undefined) return undefined as Reply;
  const result = route.reply.safeParse(parseJson(text));
  if (result.success) return result.data;
  // A long-running request sends its status before it can fail.
  const error = parseError(text);
  if (error !== undefined) throw errorFromReply(500, text);
  throw new SandboxError(
    "internal",
    `the reply to ${route.name} does not fit this version of the client: use the client of the server's version`,
    {
      cause: result.error,
    },
  );
}

/** Turns the failure of a `fetch`, or of reading its body, into a `SandboxError`. */
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

/** The error that a reply `{error, code}` describes. Any other reply, such as a proxy's, is judged by its status. */
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

/** The message `fetch failed` is of no use; its cause names the reason. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.map(reasonOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : reasonOf(error.cause);
}
