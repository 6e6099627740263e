import { createServer, type IncomingMessage, request as startRequest, type ServerResponse } from "node:http";
import { createServer as createTcpServer, Socket } from "node:net";
import { openTcpListener, openTcpSocket } from "#host/sockets.ts";
import { normalName } from "@opensandbox/wire/egress.ts";
import { forwardedHeaders, forwardedRequestHeaders } from "@opensandbox/wire/forwarded-headers.ts";
import { parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import { webProxyPort } from "../namespace-rules.ts";
import type { NetworkRecord } from "../network-record.ts";
import type { PinnedNames } from "../names/pinned-names.ts";
import type { CompiledPolicy } from "../policy.ts";
import { readServerName } from "./server-name.ts";

export interface WebProxyOptions {
  readonly namespace: string;
  readonly pinned: PinnedNames;
  readonly record: NetworkRecord;
  policy(): CompiledPolicy;
}

export interface WebProxy extends Disposable {
  /** Ends the connections that the policy, which has changed, does not allow any more. */
  judgeAgain(): void;
}

/** A ClientHello is a few kilobytes; a longer beginning is none. */
const maxHelloBytes = 32 * 1024;
const helloTimeoutMs = 10_000;
const connectTimeoutMs = 30_000;

/**
 * Where connections to ports 80 and 443 arrive whose name must be known. The kernel hands them over with the address
 * that they were meant for. TLS is let through untouched when the name that its client asks for is allowed and the
 * address is one of that name; of plain HTTP each request is looked at. What goes on goes on from the same namespace,
 * held to the same limits.
 */
export function serveWeb(options: WebProxyOptions): WebProxy {
  const open = new Map<Socket, () => boolean>();
  const http = createServer({ keepAliveTimeout: 60_000 }, (request, response) => forward(request, response, options));
  // Tunnels through a proxy are another server's business, and are not looked at.
  http.on("connect", (_request, socket) => socket.destroy());
  http.on("clientError", (_error, socket) => socket.destroy());
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    open.set(socket, () => options.policy().policy.enabled);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    if (socket.localPort === 80) {
      open.set(socket, () => false);
      http.emit("connection", socket);
    } else {
      tunnel(socket, options, (stillAllowed) => open.set(socket, stillAllowed)).catch(() => socket.destroy());
    }
  });
  server.listen({
    fd: openTcpListener(options.namespace, { address: "0.0.0.0", port: webProxyPort }, { transparent: true }),
  });
  return {
    judgeAgain() {
      for (const [socket, isAllowed] of open) if (!isAllowed()) socket.resetAndDestroy();
    },
    [Symbol.dispose]: () => {
      server.close();
      http.close();
      for (const socket of open.keys()) socket.destroy();
    },
  };
}

async function tunnel(
  socket: Socket,
  options: WebProxyOptions,
  keep: (stillAllowed: () => boolean) => void,
): Promise<void> {
  const address = socket.localAddress ?? "";
  const port = socket.localPort ?? 0;
  const { name, beginning } = await readHello(socket);
  const refusal = refusalOf(name, address, options);
  if (refusal !== undefined) {
    options.record.add({
      protocol: "tls",
      ...(name === undefined ? {} : { host: name }),
      address,
      port,
      reason: refusal,
    });
    socket.resetAndDestroy();
    return;
  }
  keep(() => refusalOf(name, address, options) === undefined);
  const upstream = connectFrom(options.namespace, address, port);
  join(socket, upstream);
  upstream.write(beginning);
}

/** What the client sends first, and the name in it. */
async function readHello(socket: Socket): Promise<{ readonly name: string | undefined; readonly beginning: Buffer }> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  let beginning = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    beginning = Buffer.concat([beginning, chunk]);
    const found = readServerName(beginning);
    if (found.kind === "name") resolve(normalName(found.name));
    else if (found.kind === "none" || beginning.length > maxHelloBytes) resolve(undefined);
  };
  const onEnd = (): void => resolve(undefined);
  socket.on("data", onData);
  socket.once("end", onEnd);
  socket.once("close", onEnd);
  socket.setTimeout(helloTimeoutMs, onEnd);
  const name = await promise;
  socket.pause();
  socket.setTimeout(0);
  socket.off("data", onData);
  socket.off("end", onEnd);
  socket.off("close", onEnd);
  socket.removeAllListeners("timeout");
  return { name, beginning };
}

/** Why a connection is not let through, if it is not. */
function refusalOf(name: string | undefined, address: string, options: WebProxyOptions): string | undefined {
  const policy = options.policy();
  if (!policy.policy.enabled) return "the network is off";
  if (name === undefined) return policy.open ? undefined : "the connection does not say for which name it is";
  if (!policy.allowsName(name)) return "the network policy does not allow this name";
  if (policy.open || options.pinned.has(name, parseIpv4(address) ?? 0)) return undefined;
  return "the address is not one of this name";
}

function connectFrom(namespace: string, address: string, port: number): Socket {
  const socket = new Socket({ fd: openTcpSocket(namespace), allowHalfOpen: true });
  socket.setTimeout(connectTimeoutMs, () => socket.destroy(new Error("no connection in time")));
  socket.once("connect", () => socket.setTimeout(0));
  socket.connect(port, address);
  return socket;
}

/** Each side's end is passed on; when one breaks, so does the other. */
function join(one: Socket, other: Socket): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.on("error", () => from.destroy());
    from.once("close", () => {
      if (from.readableEnded && from.writableFinished) return;
      to.resetAndDestroy();
    });
  }
}

function forward(request: IncomingMessage, response: ServerResponse, options: WebProxyOptions): void {
  const address = request.socket.localAddress ?? "";
  const port = request.socket.localPort ?? 0;
  const name = hostOf(request);
  const refusal = refusalOf(name, address, options);
  if (refusal !== undefined) {
    options.record.add({
      protocol: "http",
      ...(name === undefined ? {} : { host: name }),
      address,
      port,
      reason: refusal,
    });
    response.writeHead(403, { "content-type": "text/plain", connection: "close" });
    response.end(`opensandbox: ${refusal}\n`);
    return;
  }
  const upstream = startRequest({
    method: request.method,
    path: request.url,
    headers: forwardedRequestHeaders(request.method ?? "", request.rawHeaders),
    setHost: false,
    createConnection: () => connectFrom(options.namespace, address, port),
  });
  upstream.on("response", (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage, forwardedHeaders(answer.rawHeaders));
    answer.pipe(response);
    answer.on("error", () => response.destroy());
  });
  upstream.on("error", () => {
    if (response.headersSent) return void response.destroy();
    response.writeHead(502, { "content-type": "text/plain", connection: "close" });
    response.end("opensandbox: the server cannot be reached\n");
  });
  request.pipe(upstream);
  request.on("error", () => upstream.destroy());
  response.once("close", () => upstream.destroy());
}

/** The one name that a request is for; undefined when it has none or says two things. */
function hostOf(request: IncomingMessage): string | undefined {
  const hosts = request.rawHeaders.filter((_, index) => index % 2 === 0 && isHost(request.rawHeaders[index]!));
  const { host = "" } = request.headers;
  // A target with a name in it would win over the header at some servers.
  if (hosts.length !== 1 || !(request.url ?? "").startsWith("/")) return undefined;
  return normalName(host.replace(/:\d+$/, ""));
}

function isHost(header: string): boolean {
  return header.toLowerCase() === "host";
}
