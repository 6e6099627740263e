import { createServer, type IncomingMessage, request as startRequest, type ServerResponse } from "node:http";
import { createServer as createTcpServer, type Socket } from "node:net";
import { forwardedHeaders, forwardedRequestHeaders } from "@opensandbox/wire/forwarded-headers.ts";
import { HttpConnections } from "../http-connections.ts";
import type { Refusal } from "../network-record.ts";
import { type ClaimedName, type CompiledPolicy, refusalOf } from "../policy.ts";
import { hostOf, wireName } from "./host-name.ts";
import { explain, join } from "./relay.ts";
import { type Interception, SecretProxy } from "./secret-proxy.ts";
import { HelloReader } from "./server-name.ts";

/** The server that a guest's connection was addressed to. */
export interface WebTarget {
  readonly name: string | undefined;
  readonly address: string;
  readonly port: number;
}

export interface WebProxyOptions {
  /**
   * Accepts the guest's connections to any address; a connection's local address is the one that the guest addressed.
   * The proxy owns the descriptor.
   */
  readonly listener: number;
  readonly limits?: WebProxyLimits;
  policy(): CompiledPolicy;
  /** A socket that connects to the target, or the reason why the policy does not allow it. */
  connect(target: WebTarget): Promise<{ readonly socket: Socket } | { readonly refusal: string }>;
  refuse(refusal: Refusal): void;
  /** The secrets that the sandbox uses. Absent: none. */
  readonly secrets?: WebSecrets;
  /** Reports an error that no guest should be able to cause. */
  readonly defect: (error: unknown) => void;
}

export interface WebSecrets {
  /** Whether requests to this host may need a secret. */
  areFor(name: string): boolean;
  /** Changes with the secrets. */
  readonly version: number;
  /** What is needed to take part in a connection to this host, or the reason why the worker does not allow it. */
  intercept(name: string): Promise<Interception | { readonly refusal: string }>;
}

export interface WebProxyLimits {
  /** Concurrent connections of one guest, TLS and HTTP each. */
  readonly maxConnections: number;
  /** From a connection's start until its ClientHello is complete. */
  readonly helloTimeoutMs: number;
  /** From a connection's start, or the end of its last answer, until the next request's head is complete. */
  readonly requestTimeoutMs: number;
}

export interface WebProxy extends Disposable {
  /** Cuts the connections that the policy, which has changed, no longer allows, and those with changed secrets. */
  judgeAgain(): void;
}

const defaultLimits: WebProxyLimits = { maxConnections: 1024, helloTimeoutMs: 10_000, requestTimeoutMs: 60_000 };

/**
 * The proxy for a guest's connections to ports 80 and 443, where their names decide. The kernel redirects them here
 * (TPROXY). TLS passes unchanged when its ClientHello says one allowed name and the address is one of that name. Each
 * request of plain HTTP is judged. Worst case for one guest: 2 x 1024 connections, each with at most 96 KiB before it is
 * judged.
 */
export function serveWeb(options: WebProxyOptions): WebProxy {
  const { limits = defaultLimits, defect } = options;
  /** Whether each connection is still allowed. */
  const open = new Map<Socket, () => boolean>();
  let tunnels = 0;
  const http = createServer({ keepAliveTimeout: limits.requestTimeoutMs }, (request, response) => {
    forward(request, response, options).catch((error: unknown) => {
      defect(error);
      response.destroy();
    });
  });
  // The content of a tunnel would bypass the policy.
  http.on("connect", (request, socket) => {
    refuse(options, request.socket, "http", { reason: "CONNECT tunnels are not supported" });
    socket.destroy();
  });
  http.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (error.code?.startsWith("HPE_") === true) {
      refuse(options, socket as Socket, "http", { reason: "the connection is not HTTP/1" });
    }
    socket.destroy();
  });
  const connections = new HttpConnections(http, {
    maxConnections: limits.maxConnections,
    requestTimeoutMs: limits.requestTimeoutMs,
    until: "head",
  });
  const secrets = new SecretProxy({
    ...{ maxConnections: limits.maxConnections, requestTimeoutMs: limits.requestTimeoutMs, defect },
    connect: (target) => options.connect(target),
    refuse: (refusal) => options.refuse(refusal),
  });
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    open.set(socket, () => options.policy().policy.enabled);
    socket.once("close", () => open.delete(socket));
    if (socket.localPort === 80) {
      open.set(socket, () => false);
      if (!connections.take(socket)) refuseCrowded(options, socket, "http");
      return;
    }
    if (tunnels >= limits.maxConnections) return refuseCrowded(options, socket, "tls");
    tunnels += 1;
    socket.once("close", () => (tunnels -= 1));
    tunnel(socket, options, secrets, (stillAllowed) => open.set(socket, stillAllowed)).catch((error: unknown) => {
      defect(error);
      socket.destroy();
    });
  });
  server.on("error", defect);
  server.listen({ fd: options.listener });
  return {
    judgeAgain() {
      for (const [socket, isAllowed] of open) if (!isAllowed()) socket.resetAndDestroy();
    },
    [Symbol.dispose]: () => {
      server.close();
      http.close();
      secrets[Symbol.dispose]();
      for (const socket of open.keys()) socket.destroy();
    },
  };
}

async function tunnel(
  socket: Socket,
  options: WebProxyOptions,
  secrets: SecretProxy,
  keep: (stillAllowed: () => boolean) => void,
): Promise<void> {
  const { claimed, beginning } = await readHello(socket, options.limits ?? defaultLimits);
  if (socket.destroyed) return;
  const target = targetOf(socket, claimed);
  const refusal = refusalOf(options.policy(), claimed, target.address);
  if (refusal === undefined && claimed.name !== undefined && options.secrets?.areFor(claimed.name) === true) {
    return await takePart(socket, { options, secrets, name: claimed.name, target, beginning, keep });
  }
  const connected = refusal === undefined ? await options.connect(target) : { refusal };
  if ("refusal" in connected) {
    refuse(options, socket, "tls", { ...claimed, reason: connected.refusal });
    socket.resetAndDestroy();
    return;
  }
  // The guest has hung up meanwhile, or a new policy has cut the connection.
  if (socket.destroyed) return void connected.socket.destroy();
  keep(() => refusalOf(options.policy(), claimed, target.address) === undefined);
  join(socket, connected.socket);
  connected.socket.write(beginning);
}

/** Ends the guest's TLS here, so that secrets can be put into its requests. */
async function takePart(socket: Socket, { options, secrets, name, target, beginning, keep }: TakePart): Promise<void> {
  const { version } = options.secrets ?? {};
  const interception = (await options.secrets?.intercept(name)) ?? { refusal: "the sandbox uses no secrets" };
  if ("refusal" in interception) {
    refuse(options, socket, "tls", { name, reason: interception.refusal });
    socket.resetAndDestroy();
    return;
  }
  if (socket.destroyed) return;
  keep(
    () => options.secrets?.version === version && refusalOf(options.policy(), { name }, target.address) === undefined,
  );
  if (!secrets.take(socket, { ...target, name }, interception, beginning)) refuseCrowded(options, socket, "tls");
}

interface TakePart {
  readonly options: WebProxyOptions;
  readonly secrets: SecretProxy;
  readonly name: string;
  readonly target: WebTarget;
  readonly beginning: Buffer;
  readonly keep: (stillAllowed: () => boolean) => void;
}

/** Reads the first bytes of a client, and the name in them. */
async function readHello(
  socket: Socket,
  { helloTimeoutMs }: WebProxyLimits,
): Promise<{ readonly claimed: ClaimedName; readonly beginning: Buffer }> {
  const { promise, resolve } = Promise.withResolvers<ClaimedName>();
  const reader = new HelloReader();
  const onData = (chunk: Buffer): void => {
    const found = reader.push(chunk);
    if (found.kind === "none") resolve({ reason: `the connection is refused: ${found.reason}` });
    if (found.kind !== "name") return;
    const name = wireName(found.name);
    resolve(name === undefined ? { reason: "the connection is refused: its name is not a domain name" } : { name });
  };
  const onEnd = (): void => resolve({ reason: "the connection is refused: its hello is not complete" });
  socket.on("data", onData);
  socket.once("end", onEnd);
  socket.once("close", onEnd);
  const timer = setTimeout(onEnd, helloTimeoutMs);
  const claimed = await promise;
  clearTimeout(timer);
  socket.pause();
  socket.off("data", onData);
  socket.off("end", onEnd);
  socket.off("close", onEnd);
  return { claimed, beginning: reader.received };
}

function targetOf(socket: Socket, { name }: ClaimedName): WebTarget {
  return { name, address: socket.localAddress ?? "", port: socket.localPort ?? 0 };
}

function refuse(
  options: WebProxyOptions,
  socket: Socket,
  protocol: "tls" | "http",
  { name, reason }: { readonly name?: string | undefined; readonly reason: string },
): void {
  const { address, port } = targetOf(socket, { reason });
  options.refuse({ protocol, ...(name === undefined ? {} : { host: name }), address, port, reason });
}

function refuseCrowded(options: WebProxyOptions, socket: Socket, protocol: "tls" | "http"): void {
  refuse(options, socket, protocol, { reason: "too many connections at once" });
  socket.resetAndDestroy();
}

async function forward(request: IncomingMessage, response: ServerResponse, options: WebProxyOptions): Promise<void> {
  request.on("error", () => response.destroy());
  response.on("error", () => response.destroy());
  const claimed = hostOf(request);
  const target = targetOf(request.socket, claimed);
  const refusal = refusalOf(options.policy(), claimed, target.address);
  let connected: Awaited<ReturnType<WebProxyOptions["connect"]>>;
  try {
    connected = refusal === undefined ? await options.connect(target) : { refusal };
  } catch {
    return explain(response, 502, "the server cannot be reached");
  }
  if ("refusal" in connected) {
    refuse(options, request.socket, "http", { ...claimed, reason: connected.refusal });
    return explain(response, 403, connected.refusal);
  }
  const { socket } = connected;
  socket.on("error", () => socket.destroy());
  if (response.destroyed) return void socket.destroy();
  try {
    exchange(request, response, socket);
  } catch {
    // Node's client checks more than its server does.
    socket.destroy();
    explain(response, 400, "the request cannot be passed on");
  }
}

function exchange(request: IncomingMessage, response: ServerResponse, socket: Socket): void {
  const upstream = startRequest({
    method: request.method,
    path: request.url,
    headers: forwardedRequestHeaders(request.method ?? "", request.rawHeaders),
    setHost: false,
    createConnection: () => socket,
  });
  upstream.on("response", (answer) => {
    answer.on("error", () => response.destroy());
    try {
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, forwardedHeaders(answer.rawHeaders));
    } catch {
      // Node's parser accepts statuses and reasons that Node does not send.
      upstream.destroy();
      return explain(response, 502, "the server's answer cannot be passed on");
    }
    answer.pipe(response);
  });
  upstream.on("error", () => explain(response, 502, "the server cannot be reached"));
  request.pipe(upstream);
  request.on("error", () => upstream.destroy());
  response.once("close", () => upstream.destroy());
}
