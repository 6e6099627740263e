import { ServerResponse, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { WebSocketServer, type WebSocket } from "ws";
import { withinConnection } from "#http/connection-boundary.ts";
import { auditOpened } from "#http/requests/audit-calls.ts";
import { hasUnanswered } from "#http/requests/unanswered.ts";
import type { PreviewGateway } from "#http/previews/preview-gateway.ts";
import type { Log } from "../../log.ts";

// A larger message closes the connection with 1009.
const maxMessageBytes = 16 * 2 ** 20;
// A client whose host has vanished is noticed about ten seconds after this.
const probeAfterMs = 30_000;

// A client reads at its own pace: messages in transit at the close are kept for this long.
const farewellMs = 3_600_000;

// This is a separate value, because the type of the options lacks `closeTimeout`.
const options = { noServer: true, maxPayload: maxMessageBytes, perMessageDeflate: false, closeTimeout: farewellMs };
const server = new WebSocketServer(options);
const upgrades = new WeakMap<IncomingMessage, { socket: Socket; head: Buffer }>();

/** Sends upgrade requests through the same routes, hooks and error replies as other requests. */
export function routeUpgrades(app: FastifyInstance, previews: PreviewGateway, log: Log): void {
  app.server.on("upgrade", (request: IncomingMessage, socket: Socket, head: Buffer) => {
    // The upgrade's bytes would mix with the answers that are still due on this connection.
    if (hasUnanswered(request)) return void socket.destroy();
    withinConnection(socket, log, () => {
      previews.upgrade(request, socket, head, () => routeUpgrade(app, request, socket, head));
    });
  });
}

function routeUpgrade(app: FastifyInstance, request: IncomingMessage, socket: Socket, head: Buffer): void {
  upgrades.set(request, { socket, head });
  socket.on("error", () => socket.destroy());
  const response = new ServerResponse(request);
  response.assignSocket(socket);
  response.shouldKeepAlive = false;
  response.once("finish", () => {
    // An ordinary answer means that the upgrade was refused.
    if (upgrades.has(request)) socket.end();
  });
  app.routing(request, response);
}

/** Accepts the WebSocket that the request asks for. It is paused. */
export async function acceptWebSocket(
  request: FastifyRequest,
  reply: FastifyReply,
  keepAliveMs: number,
): Promise<WebSocket> {
  const upgrade = upgrades.get(request.raw);
  if (upgrade === undefined) {
    throw new SandboxError("invalid_argument", "this route is a WebSocket: connect with an upgrade");
  }
  upgrades.delete(request.raw);
  reply.hijack();
  reply.raw.detachSocket(upgrade.socket);
  const accepted = Promise.withResolvers<WebSocket>();
  // The library answers a refused handshake and closes its socket.
  upgrade.socket.once("close", () => accepted.reject(new SandboxError("canceled", "the client disconnected")));
  server.handleUpgrade(request.raw, upgrade.socket, upgrade.head, (socket) => {
    socket.pause();
    accepted.resolve(socket);
  });
  const socket = await accepted.promise;
  auditOpened(request);
  // The library closes the connection after a protocol error.
  socket.on("error", () => {});
  // A slow reader sends no pong in time, so only the kernel's keep-alive shows that the client is gone.
  upgrade.socket.setKeepAlive(true, probeAfterMs);
  // Proxies close silent connections.
  const pings = setInterval(() => socket.ping(), keepAliveMs);
  socket.once("close", () => clearInterval(pings));
  return socket;
}
