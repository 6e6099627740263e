import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import { type Client, type CallOptions, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { maxMessageBytes, nodeName, streamWindowBytes } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import { fromConnectError } from "@opensandbox/wire/worker/rpc/rpc-errors.ts";
import { traceCalls } from "@opensandbox/wire/worker/rpc/trace-calls.ts";
import type { Tracer } from "@opensandbox/wire/tracing.ts";
import { WorkerService } from "@opensandbox/wire/worker/rpc/worker_pb.js";
import { CallScope } from "./call-scope.ts";

export interface WorkerLinkOptions {
  /** `https://` and the address on which the worker serves. */
  readonly url: string;
  /** PEM: this node's certificate and key, and the authority that signed the worker's. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  readonly token: string;
  /** Absent: calls are not traced. */
  readonly tracer?: Tracer | undefined;
  /** Durations that tests shorten. */
  readonly tuning?: LinkTuning;
}

export interface LinkTuning {
  /** How often the connection is probed, and how long an answer may take. */
  readonly pingMs?: number;
  /** How long connecting may take. */
  readonly connectMs?: number;
  /** The deadline of calls without a signal. */
  readonly answerMs?: number;
  /** The pause before a lasting call, such as a wait for the end of a machine, is made again. */
  readonly retryMs?: number;
}

const defaults = { pingMs: 5000, connectMs: 5000, answerMs: 60_000, retryMs: 1000 } as const satisfies LinkTuning;

export type WorkerClient = Client<typeof WorkerService>;

/** The connection to one worker. It is made at the first call, and made again by the next call after it broke. */
export class WorkerLink implements Disposable {
  readonly client: WorkerClient;
  readonly tuning: Required<LinkTuning>;
  /** Names the worker in messages. */
  name: string;
  readonly #sessions: Http2SessionManager;

  constructor({ url, tls, token, tracer, tuning = {} }: WorkerLinkOptions) {
    this.tuning = { ...defaults, ...tuning };
    this.name = `the worker at ${new URL(url).host}`;
    const { pingMs, connectMs } = this.tuning;
    this.#sessions = new Http2SessionManager(
      url,
      {
        pingIntervalMs: pingMs,
        pingTimeoutMs: pingMs,
        pingIdleConnection: true,
        // 2^31 - 1 ms, the longest timer: an idle worker stays connected, so that its loss is noticed.
        idleConnectionTimeoutMs: 2 ** 31 - 1,
      },
      {
        settings: { initialWindowSize: streamWindowBytes },
        createConnection: (authority) => connectTo(authority, tls, connectMs),
      },
    );
    const transport = createConnectTransport({
      baseUrl: url,
      httpVersion: "2",
      sessionManager: this.#sessions,
      interceptors: [...(tracer === undefined ? [] : [traceCalls(tracer, () => this.name)]), withToken(token)],
      acceptCompression: [],
      readMaxBytes: maxMessageBytes,
    });
    this.client = createClient(WorkerService, transport);
  }

  /** Makes a call whose caller has no signal, with a deadline. */
  async ask<T>(
    call: (client: WorkerClient, options: CallOptions) => Promise<T>,
    answerMs = this.tuning.answerMs,
  ): Promise<T> {
    try {
      return await call(this.client, { timeoutMs: answerMs });
    } catch (error) {
      throw fromConnectError(error, this.name);
    }
  }

  /** Makes a call that lasts until the worker answers, the signal aborts or the connection breaks. */
  async until<T>(signal: AbortSignal, call: (client: WorkerClient, options: CallOptions) => Promise<T>): Promise<T> {
    using scope = new CallScope(signal);
    try {
      return await call(this.client, { signal: scope.signal });
    } catch (error) {
      throw this.failure(error, signal);
    }
  }

  /**
   * Connects, unless there is a connection. Without one a call has not reached the worker.
   * @throws `unavailable` when it cannot
   */
  async connect(): Promise<void> {
    if ((await this.#sessions.connect()) !== "error") return;
    throw new SandboxError("unavailable", `${this.name} cannot be reached`, { cause: this.#sessions.error() });
  }

  /** Whether the error comes from the connection and not from the worker, which may have finished the call. */
  static isFromConnection(error: unknown): boolean {
    if (!isSandboxError(error, "unavailable") || !(error.cause instanceof ConnectError)) return false;
    return error.cause.code !== Code.Unauthenticated;
  }

  /** What a caller throws for a failed call: the reason of its own signal, or the worker's error. */
  failure(error: unknown, signal: AbortSignal): unknown {
    return signal.aborted ? (signal.reason as unknown) : fromConnectError(error, this.name);
  }

  [Symbol.dispose](): void {
    this.#sessions.abort(new SandboxError("unavailable", `the connection to ${this.name} was closed`));
  }
}

/** Workers are reached by address, so the certificate is compared with the fleet's name instead of the host's. */
function connectTo(authority: URL, tls: WorkerLinkOptions["tls"], connectMs: number): TLSSocket {
  const options: ConnectionOptions = {
    host: authority.hostname.replace(/^\[|\]$/g, ""),
    port: Number(authority.port || 443),
    servername: nodeName,
    ...tls,
    minVersion: "TLSv1.3",
    ALPNProtocols: ["h2"],
  };
  const socket = connectTls(options);
  const late = setTimeout(() => {
    socket.destroy(new Error(`no connection to ${authority.host} within ${connectMs} ms`));
  }, connectMs);
  socket.once("secureConnect", () => clearTimeout(late));
  socket.once("close", () => clearTimeout(late));
  return socket;
}

function withToken(token: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
}
