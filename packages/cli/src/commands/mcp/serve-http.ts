import { createHash, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { describeError } from "@opensandbox/wire/errors.ts";

export interface ServeHttp {
  readonly hostname: string;
  /** 0: one that is free. */
  readonly port: number;
  /** What requests send as `Authorization: Bearer`. */
  readonly token: string;
  /** A server for one request. The tools behind it may be shared. */
  readonly makeServer: () => McpServer;
  readonly report: (message: string) => void;
}

/** The path of the protocol. */
const path = "/mcp";
/** A request of an agent waits for its command, so that many may be open. */
const maxConnections = 256;

/**
 * Serves the protocol's streamable HTTP transport without sessions: each request is answered on its own. Disposing closes
 * the port and all connections.
 */
export async function serveHttp(options: ServeHttp): Promise<AsyncDisposable & { readonly url: string }> {
  const { hostname, port, report } = options;
  const server = createServer((request, response) => {
    answer(request, response, options).catch((error: unknown) => {
      report(`a request failed: ${JSON.stringify(describeError(error))}`);
      if (response.headersSent) response.destroy();
      else refuse(response, 500, "the request failed");
    });
  });
  server.maxConnections = maxConnections;
  server.listen(port, hostname);
  await once(server, "listening");
  const { port: bound } = server.address() as AddressInfo;
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  return {
    url: `http://${host}:${bound}${path}`,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { token, makeServer }: ServeHttp,
): Promise<void> {
  const { authorization = "" } = request.headers;
  if (!isSame(authorization, `Bearer ${token}`)) {
    response.setHeader("www-authenticate", "Bearer");
    return refuse(response, 401, "send the token as Authorization: Bearer");
  }
  if (new URL(request.url ?? "/", "http://localhost").pathname !== path) return refuse(response, 404, `use ${path}`);
  // Without sessions there is nothing that a GET could follow or a DELETE could end.
  if (request.method !== "POST") {
    response.setHeader("allow", "POST");
    return refuse(response, 405, "use POST");
  }
  const server = makeServer();
  const transport = new StreamableHTTPServerTransport();
  response.on("close", () => {
    void transport.close();
    void server.close();
  });
  await server.connect(transport);
  await transport.handleRequest(request, response);
}

/** Compares in a time that does not depend on the content. */
function isSame(one: string, other: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
}

function refuse(response: ServerResponse, status: number, error: string): void {
  response.writeHead(status, { "content-type": "application/json", connection: "close" });
  response.end(JSON.stringify({ error }));
}
