import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer } from "node:net";
import { HttpConnections, type HttpConnectionLimits } from "./http-connections.ts";

/** Facts about a sandbox that its guest may read. */
export interface MetadataSource {
  status(): { readonly sandboxId: string; readonly uptime: number };
  limits(): Promise<object>;
  metadata(): { readonly region: string; readonly template: string };
  /** Changes the sandbox's size. `body` is the guest's JSON, not validated. */
  scale(body: unknown): Promise<MetadataAnswer>;
}

export interface MetadataAnswer {
  readonly status: number;
  readonly body: object;
}

export const metadataEndpoints = ["GET /v1/status", "GET /v1/limits", "GET /v1/metadata", "POST /v1/scale"] as const;
export type MetadataEndpoint = (typeof metadataEndpoints)[number];

export interface MetadataServiceOptions {
  /** Listens at {@link inner.metadata} in the guest's namespace. The service owns the descriptor. */
  readonly listener: number;
  readonly limits?: HttpConnectionLimits;
  answer(endpoint: MetadataEndpoint, body: unknown): Promise<MetadataAnswer>;
  /** Reports an error that no guest should be able to cause. */
  readonly defect: (error: unknown) => void;
}

const defaultLimits: HttpConnectionLimits = { maxConnections: 64, requestTimeoutMs: 10_000, until: "end" };

/** A limit above the size of any valid request. */
const maxBodyBytes = 4096;

/**
 * Answers one guest at 169.254.169.254. The listener is in the guest's namespace, so it identifies the guest; addresses
 * and headers are not trusted. Worst case for one guest: 64 connections, each with Node's
 * 16 KiB of headers and {@link maxBodyBytes} of body, closed after 10 seconds without a complete request.
 */
export function serveMetadata(options: MetadataServiceOptions): Disposable {
  const { limits = defaultLimits, defect } = options;
  const http = createHttpServer({ keepAliveTimeout: 5000 }, (request, response) => {
    response.on("error", () => response.destroy());
    answer(request, response, options).catch((error: unknown) => {
      // The guest has hung up.
      if (request.socket.destroyed) return;
      defect(error);
      if (response.headersSent) response.destroy();
      else reply(response, 500, { error: "internal error" });
    });
  });
  const connections = new HttpConnections(http, limits);
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    if (!connections.take(socket)) socket.resetAndDestroy();
  });
  server.on("error", defect);
  server.listen({ fd: options.listener });
  return {
    [Symbol.dispose]: () => {
      server.close();
      connections[Symbol.dispose]();
    },
  };
}

/** The answer of an endpoint. `source` is undefined while the machine has no sandbox. */
export async function answerMetadata(
  source: MetadataSource | undefined,
  endpoint: MetadataEndpoint,
  body: unknown,
): Promise<MetadataAnswer> {
  if (source === undefined) return { status: 503, body: { error: "the machine is being made ready" } };
  switch (endpoint) {
    case "GET /v1/status":
      return { status: 200, body: source.status() };
    case "GET /v1/limits":
      return { status: 200, body: await source.limits() };
    case "GET /v1/metadata":
      return { status: 200, body: source.metadata() };
    case "POST /v1/scale":
      return await source.scale(body);
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  options: MetadataServiceOptions,
): Promise<void> {
  const body = await readBody(request);
  const [path = ""] = (request.url ?? "").split("?");
  // Browsers send an Origin. A web page open in the guest must not read the metadata of its sandbox.
  if (request.headers.origin !== undefined) return reply(response, 403, { error: "not for web pages" });
  if (request.method === "GET" && path === "/") return reply(response, 200, { endpoints: metadataEndpoints });
  const asked = `${request.method} ${path}`;
  const endpoint = metadataEndpoints.find((known) => known === asked);
  if (endpoint === undefined) return reply(response, 404, { error: `there is no ${asked}: see GET /` });
  if (endpoint === "POST /v1/scale" && body === undefined) {
    return reply(response, 400, { error: 'the body must be JSON such as {"memoryMB":2048}' });
  }
  const answer = await options.answer(endpoint, body);
  reply(response, answer.status, answer.body);
}

/** Undefined for a body that is not JSON or is longer than {@link maxBodyBytes}. */
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
