import { ServerResponse, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { WebSocketServer, type WebSocket } from "ws";
import type { PreviewGateway } from "#http/previews/preview-gateway.ts";

// A larger message closes the connection with 1009.
const messageLimit = 16 * 2 ** 20;
// A vanished client is noticed about ten seconds after this.
const probeAfterMs = 30_000;

// A client may read at its own pace to the end: bytes on their way at the close are kept this long.
const farewellMs = 3_600_000;

// A separate value: the type of the options lacks `closeTimeout`.
const options = { noServer: true, maxPayload: messageLimit, perMessageDeflate: false, closeTimeout: farewellMs };
const server = new WebSocketServer(options);
const upgrades = new WeakMap<IncomingMessage, { socket: Socket; head: Buffer }>();

/** Other upgrades are served as ordinary requests: some clients ask every server to upgrade to HTTP/2. */
export function isWebSocketUpgrade(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "websocket";
}

/** Routes upgrade requests through the same hooks and error replies as all others. */
export function routeUpgrades(app: FastifyInstance, previews: PreviewGateway): void {
  app.server.on("upgrade", (request: IncomingMessage, socket: Socket, head: Buffer) => {
    previews.upgrade(request, socket, head, () => routeUpgrade(app, request, socket, head));
  });
}

function routeUpgrade(app: FastifyInstance, request: IncomingMessage, socket: Socket, head: Buffer): void {
  upgrades.set(request, { socket, head });
  socket.on("error", () => socket.destroy());
  const response = new ServerResponse(request);
  response.assignSocket(socket);
  response.shouldKeepAlive = false;
  response.once("finish", () => {
    // No handler has accepted the upgrade, so the request was refused.
    if (upgrades.has(request)) socket.end();
  });
  app.routing(request, response);
}

/** Accepts the WebSocket that a request asks for, and returns it paused. */
export async function acceptWebSocket(
  request: FastifyRequest,
  reply: FastifyReply,
  keepAliveMs: number,
): Promise<WebSocket> {
  const upgrade = upgrades.get(request.raw);
  if (upgrade === undefined) {
    throw new SandboxError("invalid_argument", "this is a WebSocket: connect to it with an upgrade");
  }
  upgrades.delete(request.raw);
  reply.hijack();
  reply.raw.detachSocket(upgrade.socket);
  const accepted = Promise.withResolvers<WebSocket>();
  // The library answers a bad handshake and closes its socket.
  upgrade.socket.once("close", () => accepted.reject(new SandboxError("canceled", "the caller went away")));
  server.handleUpgrade(request.raw, upgrade.socket, upgrade.head, (socket) => {
    socket.pause();
    accepted.resolve(socket);
  });
  const socket = await accepted.promise;
  // A protocol error closes the connection, which is all that has to happen.
  socket.on("error", () => {});
  // A missing pong proves nothing about a client that reads slowly; TCP keep-alive shows whether it still exists.
  upgrade.socket.setKeepAlive(true, probeAfterMs);
  // For proxies on the way, which close silent connections.
  const pings = setInterval(() => socket.ping(), keepAliveMs);
  socket.once("close", () => clearInterval(pings));
  return socket;
}
