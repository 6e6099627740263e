import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer, type Socket } from "node:net";
import { openTcpListener } from "#host/sockets.ts";
import { inner } from "./address-plan.ts";

/** What a sandbox may learn about itself. */
export interface MetadataSource {
  status(): { readonly sandboxId: string; readonly uptime: number };
  limits(): Promise<object>;
  metadata(): { readonly region: string; readonly template: string };
  /** Gives it another size. */
  scale(body: unknown): Promise<{ readonly status: number; readonly body: object }>;
}

/**
 * Answers a namespace's guest at 169.254.169.254. Who asks is known by the socket, which is in its namespace and
 * nowhere else: no address is believed. `source` is undefined while the machine is nobody's.
 */
export function serveMetadata(namespace: string, source: () => MetadataSource | undefined): Disposable {
  const connections = new Set<Socket>();
  const http = createHttpServer({ keepAliveTimeout: 5000 }, (request, response) => {
    answer(request, response, source()).catch(() => reply(response, 500, { error: "internal error" }));
  });
  const server = createServer((socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    http.emit("connection", socket);
  });
  server.listen({ fd: openTcpListener(namespace, { address: inner.metadata, port: 80 }) });
  return {
    [Symbol.dispose]: () => {
      server.close();
      for (const socket of connections) socket.destroy();
    },
  };
}

const endpoints = ["GET /v1/status", "GET /v1/limits", "GET /v1/metadata", "POST /v1/scale"];

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  source: MetadataSource | undefined,
): Promise<void> {
  const body = await readBody(request);
  const [path = ""] = (request.url ?? "").split("?");
  // A web page in the guest must not read it for somebody else: browsers send an Origin.
  if (request.headers.origin !== undefined) return reply(response, 403, { error: "not for web pages" });
  if (request.method === "GET" && path === "/") return reply(response, 200, { endpoints });
  const endpoint = `${request.method} ${path}`;
  if (!endpoints.includes(endpoint)) return reply(response, 404, { error: `there is no ${endpoint}: see GET /` });
  if (source === undefined) return reply(response, 503, { error: "the machine is being made ready" });
  switch (endpoint) {
    case "GET /v1/status":
      return reply(response, 200, source.status());
    case "GET /v1/limits":
      return reply(response, 200, await source.limits());
    case "GET /v1/metadata":
      return reply(response, 200, source.metadata());
    default: {
      if (body === undefined) return reply(response, 400, { error: 'the body must be JSON such as {"memoryMB":2048}' });
      const answer = await source.scale(body);
      return reply(response, answer.status, answer.body);
    }
  }
}

/** Far more than any of them takes. */
const maxBodyBytes = 4096;

/** Undefined for what is no JSON, or too much of it. */
async function readBody(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes <= maxBodyBytes) parts.push(part);
  }
  if (bytes > maxBodyBytes) return undefined;
  try {
    return JSON.parse(Buffer.concat(parts).toString()) as unknown;
  } catch {
    return undefined;
  }
}

function reply(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}
