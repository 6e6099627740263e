import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { PreviewGateway } from "./previews/preview-gateway.ts";
import { isWebSocketUpgrade } from "./sockets/web-socket.ts";

/** A certificate chain and its key, as PEM. */
export interface Tls {
  readonly cert: string;
  readonly key: string;
}

// Longer than what proxies keep a connection for, so that it is they who end it.
const keepAliveTimeoutMs = 72_000;

/** The HTTP server of the API, in front of which requests to sandboxes' ports are taken out. */
export function makeServer(handle: RequestListener, previews: PreviewGateway, tls: Tls | undefined): Server {
  const options = { shouldUpgradeCallback: isWebSocketUpgrade };
  const listener: RequestListener = (request, response) => {
    previews.request(request, response, () => {
      handle(request, response);
    });
  };
  const server =
    tls === undefined ? createServer(options, listener) : (createTlsServer({ ...options, ...tls }, listener) as Server);
  server.keepAliveTimeout = keepAliveTimeoutMs;
  // A body may take as long as it likes.
  server.requestTimeout = 0;
  return server;
}
