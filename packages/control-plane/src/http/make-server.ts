import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";
import type { Tls } from "./api-context.ts";
import { withinConnection } from "./connection-boundary.ts";
import type { PreviewGateway } from "./previews/preview-gateway.ts";
import { trackUnanswered } from "./requests/unanswered.ts";
import { isWebSocketUpgrade } from "./sockets/is-upgrade.ts";

// Exceeds the idle time of common proxies, so that the proxy closes an idle connection and never sends into a closed
// one.
const keepAliveTimeoutMs = 72_000;

export interface MakeServer {
  readonly previews: PreviewGateway;
  /** Absent: plain HTTP. */
  readonly tls: Tls | undefined;
  readonly log: Log;
}

/** The HTTP server: requests for a sandbox's port go to the preview gateway, all others to `handle`. */
export function makeServer(handle: RequestListener, { previews, tls, log }: MakeServer): Server {
  const options = { shouldUpgradeCallback: isWebSocketUpgrade };
  const listener: RequestListener = (request, response) => {
    trackUnanswered(request, response);
    withinConnection(request.socket, log, () => {
      previews.request(request, response, () => handle(request, response));
    });
  };
  const server =
    tls === undefined ? createServer(options, listener) : (createTlsServer({ ...options, ...tls }, listener) as Server);
  server.keepAliveTimeout = keepAliveTimeoutMs;
  // The body of an upload may take any time.
  server.requestTimeout = 0;
  // Accepting fails when the process has no free file descriptor. Existing connections are not affected.
  server.on("error", (error) => log("error", "cannot accept a connection", describeError(error)));
  return server;
}
