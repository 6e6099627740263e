import { errorCodes, errorFromWire, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ErrorCode } from "@opensandbox/wire/errors.ts";

export interface HttpRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Below `/api`, segments already encoded. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly json?: unknown;
  readonly content?: ReadableStream<Uint8Array> | Uint8Array | string;
}

/** Speaks to one server with one key. */
export interface HttpClient {
  /** A reply of status 2xx; its body is the caller's to read. */
  send(request: HttpRequest, signal?: AbortSignal): Promise<Response>;
  /** The body of a reply of status 2xx, parsed. */
  json<T>(request: HttpRequest, signal?: AbortSignal): Promise<T>;
  /** Waits for a reply of status 2xx that says nothing. */
  done(request: HttpRequest, signal?: AbortSignal): Promise<void>;
  /** Address of a WebSocket; the key is in the query, since a WebSocket has no headers. */
  socketUrl(path: string): string;
}

export function httpClient(url: string, apiKey: string | undefined): HttpClient {
  const base = `${url.replace(/\/+$/, "").replace(/\/api$/, "")}/api`;

  async function send(request: HttpRequest, signal?: AbortSignal): Promise<Response> {
    const response = await translate(base, signal, async () => {
      const target = new URL(base + request.path);
      for (const [name, value] of Object.entries(request.query ?? {})) {
        if (value !== undefined) target.searchParams.set(name, value);
      }
      const headers: Record<string, string> = apiKey === undefined ? {} : { "X-API-Key": apiKey };
      let body: ReadableStream<Uint8Array> | Uint8Array<ArrayBuffer> | string | undefined;
      if (request.json !== undefined) {
        headers["Content-Type"] = "application/json";
        body = JSON.stringify(request.json);
      } else if (request.content !== undefined) {
        headers["Content-Type"] = "application/octet-stream";
        body = request.content as typeof body;
      }
      return await fetch(target, {
        method: request.method,
        headers,
        // Without `half` a stream is refused as a body.
        ...(body === undefined ? {} : { body, duplex: "half" as const }),
        ...(signal === undefined ? {} : { signal }),
      });
    });
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  return {
    send,
    async json<T>(request: HttpRequest, signal?: AbortSignal): Promise<T> {
      const response = await send(request, signal);
      return await translate(base, signal, async () => (await response.json()) as T);
    },
    async done(request, signal) {
      const response = await send(request, signal);
      await translate(base, signal, async () => await response.arrayBuffer());
    },
    socketUrl(path) {
      const query = apiKey === undefined ? "" : `?api_key=${encodeURIComponent(apiKey)}`;
      return base.replace(/^http/, "ws") + path + query;
    },
  };
}

/** What a failed `fetch`, or the reading of its body, means. */
export async function translate<T>(
  server: string,
  signal: AbortSignal | undefined,
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (isSandboxError(cause)) throw cause;
    if (signal?.aborted === true) throw new SandboxError("canceled", "canceled", undefined, { cause });
    if (cause instanceof SyntaxError) {
      throw new SandboxError("internal", `the reply of ${server} is not JSON`, undefined, { cause });
    }
    throw new SandboxError("unavailable", `cannot reach ${server}: ${reasonOf(cause)}`, undefined, { cause });
  }
}

/** The error in a reply that is not of status 2xx. */
async function errorOf(response: Response): Promise<SandboxError> {
  const text = await response.text().catch(() => "");
  return errorFromReply(response.status, text);
}

/** Rebuilds the error of a reply `{"error", "code"}`; a reply that is not ours is judged by its status. */
export function errorFromReply(status: number, text: string): SandboxError {
  const wire = parseError(text);
  const message = wire?.error ?? (text.trim().slice(0, 200) || `the server answered with status ${status}`);
  return errorFromWire({ code: wire?.code ?? codeOfStatus(status), message, details: wire?.details });
}

function parseError(text: string): { error: string; code?: string; details?: unknown } | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || !("error" in value) || typeof value.error !== "string") {
      return undefined;
    }
    const code = "code" in value && typeof value.code === "string" ? { code: value.code } : {};
    return { error: value.error, ...code, ...("details" in value ? { details: value.details } : {}) };
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
  if (!(error instanceof Error)) return String(error);
  if (error.cause instanceof Error) return error.cause.message || reasonOf(error.cause) || error.message;
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join("; ");
  return error.message;
}
