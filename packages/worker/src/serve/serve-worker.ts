import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { timingSafeEqual, createHash } from "node:crypto";
import { once } from "node:events";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { maxMessageBytes, streamWindowBytes } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import { traceAnswers } from "@opensandbox/wire/worker/rpc/trace-calls.ts";
import type { Tracer } from "@opensandbox/wire/tracing.ts";
import { toConnectError } from "@opensandbox/wire/worker/rpc/rpc-errors.ts";
import { WorkerService } from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { Log } from "#host/log.ts";
import { type ServedWorker, workerService } from "./worker-service.ts";

export interface ServeWorkerOptions extends ServedWorker {
  /** Port 0: any free port. */
  readonly listen: { readonly host: string; readonly port: number };
  /** PEM: this node's certificate and key, and the authority that signed those of its callers. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  /** The secret that every call carries. */
  readonly token: string;
  readonly log: Log;
  /** Absent: calls are not traced. */
  readonly tracer?: Tracer | undefined;
  /** Intervals that tests shorten. */
  readonly tuning?: { readonly pingMs?: number };
}

export interface WorkerEndpoint extends AsyncDisposable {
  readonly url: string;
}

/** How often a connection is probed, and how long the probe may take. A caller that vanished is noticed within both. */
const defaultPingMs = 5000;

/**
 * Serves a worker to the servers of its fleet. Disposing ends every call and closes the connections; the sandboxes run on.
 * @throws `unavailable` when it cannot listen
 */
export async function serveWorker(options: ServeWorkerOptions): Promise<WorkerEndpoint> {
  const { listen, tls, token, log, tracer, tuning } = options;
  const ending = new AbortController();
  const handle = connectNodeAdapter({
    routes: (router) => router.service(WorkerService, workerService(options)),
    interceptors: [...(tracer === undefined ? [] : [traceAnswers(tracer)]), translateErrors(log), requireToken(token)],
    connect: true,
    grpc: false,
    grpcWeb: false,
    acceptCompression: [],
    readMaxBytes: maxMessageBytes,
    shutdownSignal: ending.signal,
  });
  const server = createSecureServer(
    {
      ...tls,
      minVersion: "TLSv1.3",
      // A caller without a certificate of the fleet gets no further than the handshake.
      requestCert: true,
      rejectUnauthorized: true,
      settings: { initialWindowSize: streamWindowBytes },
    },
    handle,
  );
  // Includes connections whose handshake is under way.
  const connections = new Set<Socket>();
  server.on("connection", (connection: Socket) => {
    connections.add(connection);
    connection.once("close", () => connections.delete(connection));
  });
  server.on("session", (session) => {
    session.on("error", (error) => log("info", "a connection of the fleet broke", describeError(error)));
    endWhenSilent(session, tuning?.pingMs ?? defaultPingMs);
  });
  server.on("sessionError", (error) => log("info", "a connection of the fleet broke", describeError(error)));
  const port = await listenOn(server, listen);
  return {
    url: `https://${listen.host.includes(":") ? `[${listen.host}]` : listen.host}:${port}`,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      ending.abort(new ConnectError("the worker is shutting down", Code.Unavailable));
      for (const connection of connections) connection.destroy();
      await closed;
    },
  };
}

async function listenOn(server: Http2SecureServer, { host, port }: ServeWorkerOptions["listen"]): Promise<number> {
  try {
    server.listen({ host, port });
    await once(server, "listening");
  } catch (cause) {
    const message = `cannot listen for servers on ${host} port ${port}: ${(cause as Error).message}: set OPENSANDBOX_FLEET_HOST and OPENSANDBOX_FLEET_PORT`;
    throw new SandboxError("unavailable", message, { cause });
  }
  return (server.address() as AddressInfo).port;
}

/** Destroys the session, and with it the calls on it, when its peer does not answer a probe. */
function endWhenSilent(session: ServerHttp2Session, everyMs: number): void {
  let answered = true;
  const timer = setInterval(() => {
    if (!answered || session.destroyed) {
      session.destroy();
      return;
    }
    answered = false;
    session.ping(() => {
      answered = true;
    });
  }, everyMs);
  session.once("close", () => clearInterval(timer));
}

/** Compared as hashes, so that the time of the comparison tells nothing about the token. */
function requireToken(token: string): Interceptor {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  const expected = hash(`Bearer ${token}`);
  return (next) => (request) => {
    if (timingSafeEqual(hash(request.header.get("authorization") ?? ""), expected)) return next(request);
    throw new ConnectError("the token is wrong", Code.Unauthenticated);
  };
}

/** Gives every error of a call the code and details that its caller rebuilds it from. */
function translateErrors(log: Log): Interceptor {
  const translate = (error: unknown): ConnectError => {
    const translated = toConnectError(error);
    if (translated.code === Code.Internal) log("error", "a call of a server failed", describeError(error));
    return translated;
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: rethrow(response.message, translate) };
    } catch (error) {
      throw translate(error);
    }
  };
}

async function* rethrow<T>(messages: AsyncIterable<T>, translate: (error: unknown) => Error): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw translate(error);
  }
}
