import { ServerResponse, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { WebSocketServer, type WebSocket } from "ws";
import type { PreviewGateway } from "#http/previews/preview-gateway.ts";

// Larger messages are refused by closing with 1009.
const messageLimit = 16 * 2 ** 20;
// A caller whose host vanished is noticed about ten seconds after this.
const probeAfterMs = 30_000;

// A caller reads at its own pace to the very end: what is on its way when the connection is closed stays so this long.
const farewellMs = 3_600_000;

// A value of its own: the type of the options does not know `closeTimeout` yet.
const options = { noServer: true, maxPayload: messageLimit, perMessageDeflate: false, closeTimeout: farewellMs };
const server = new WebSocketServer(options);
const upgrades = new WeakMap<IncomingMessage, { socket: Socket; head: Buffer }>();

/** Only these are taken out of the ordinary way: some clients ask every server for HTTP/2 by an upgrade. */
export function isWebSocketUpgrade(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "websocket";
}

/** Sends upgrade requests through the same routes, hooks and error replies as all others. */
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
    // Answered as an ordinary request, so it was refused.
    if (upgrades.has(request)) socket.end();
  });
  app.routing(request, response);
}

/** The WebSocket that the request asked for, paused. */
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
  // A handshake that is refused is answered, and its socket closed, by the library.
  upgrade.socket.once("close", () => accepted.reject(new SandboxError("canceled", "the caller went away")));
  server.handleUpgrade(request.raw, upgrade.socket, upgrade.head, (socket) => {
    socket.pause();
    accepted.resolve(socket);
  });
  const socket = await accepted.promise;
  // What breaks the protocol closes the connection, and that is all there is to do.
  socket.on("error", () => {});
  // A caller may take its time to read, so no pong proves nothing: that it still exists, its system says.
  upgrade.socket.setKeepAlive(true, probeAfterMs);
  // For the proxies between, which close what stays silent.
  const pings = setInterval(() => socket.ping(), keepAliveMs);
  socket.once("close", () => clearInterval(pings));
  return socket;
}
