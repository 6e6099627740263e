import type { IncomingMessage } from "node:http";

/** Other upgrades are served as ordinary requests: some clients ask every server for HTTP/2 by an upgrade. */
export function isWebSocketUpgrade(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "websocket";
}
