import { createHash, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { asSandboxError, describeError, errorCodes, errorToWire, SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import type { Log } from "../log.ts";
import type { Fleet } from "./fleet.ts";

export interface FleetApiOptions {
  /** Port 0: any free port. */
  readonly listen: { readonly host: string; readonly port: number };
  /** PEM. Callers need a certificate of the same authority. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  readonly token: string;
  readonly log: Log;
}

/** The part of a request that is read here. */
interface Request extends AsyncIterable<Buffer> {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: { readonly authorization?: string | undefined };
}

/** A request is a few names. */
const maxBodyBytes = 16_384;
const requestMs = 30_000;

/**
 * Serves workers that join, and operators. Its callers are members of the fleet: they hold its certificate and its token.
 * @throws `unavailable` when it cannot listen
 */
export async function serveFleetApi(
  fleet: Fleet,
  { listen, tls, token, log }: FleetApiOptions,
): Promise<AsyncDisposable & { readonly url: string }> {
  const answer = async (request: Request): Promise<{ readonly status: number; readonly body: unknown }> => {
    try {
      requireToken(request, token);
      return { status: 200, body: await route(fleet, request) };
    } catch (thrown) {
      const error = asSandboxError(thrown);
      if (error.code === "internal") log("error", "a request of the fleet failed", describeError(thrown));
      return { status: errorCodes[error.code].status, body: errorToWire(error) };
    }
  };
  const server = createServer(
    { ...tls, minVersion: "TLSv1.3", requestCert: true, rejectUnauthorized: true, requestTimeout: requestMs },
    (request, response) => {
      void answer(request).then(({ status, body }) => {
        response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
      });
    },
  );
  // Includes connections whose handshake is under way.
  const connections = new Set<Socket>();
  server.on("connection", (connection: Socket) => {
    connections.add(connection);
    connection.once("close", () => connections.delete(connection));
  });
  try {
    server.listen(listen);
    await once(server, "listening");
  } catch (cause) {
    const message = `cannot listen for workers on ${listen.host} port ${listen.port}: ${(cause as Error).message}: set OPENSANDBOX_FLEET_HOST and OPENSANDBOX_FLEET_PORT`;
    throw new SandboxError("unavailable", message, { cause });
  }
  const { port } = server.address() as AddressInfo;
  return {
    url: `https://${listen.host.includes(":") ? `[${listen.host}]` : listen.host}:${port}`,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      for (const connection of connections) connection.destroy();
      await closed;
    },
  };
}

async function route(fleet: Fleet, request: Request): Promise<unknown> {
  const { method = "", url = "/" } = request;
  const [, noun, name = "", verb] = new URL(url, "https://fleet").pathname.split("/").map(decodeURIComponent);
  switch (`${method} ${noun}${verb === undefined ? "" : `/${verb}`}`) {
    case "POST join": {
      const { url: workerUrl } = await bodyOf(request);
      if (typeof workerUrl !== "string" || !/^https:\/\/./.test(workerUrl) || !URL.canParse(workerUrl)) {
        throw new SandboxError("invalid_argument", "the address of a worker must begin with https://");
      }
      return { workerId: await fleet.join(workerUrl) };
    }
    case "GET workers":
      return await fleet.report();
    case "POST workers/cordon": {
      const { cordoned } = await bodyOf(request);
      await fleet.cordon(name, cordoned === true);
      return {};
    }
    case "POST workers/drain":
      await fleet.drain(name);
      return {};
    case "POST workers/evacuate":
      return await fleet.evacuate(name);
    case "POST workers/remove": {
      const { lost } = await bodyOf(request);
      return await fleet.remove(name, { isLost: lost === true });
    }
    case "GET placements":
      return await fleet.explain(parseSandboxId(name));
    default:
      throw new SandboxError("not_found", `no route ${method} ${url}`, { resource: "route", id: url });
  }
}

/** Compared as hashes, so that the time of the comparison tells nothing about the token. */
function requireToken({ headers }: Request, token: string): void {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  if (timingSafeEqual(hash(headers.authorization ?? ""), hash(`Bearer ${token}`))) return;
  throw new SandboxError("unauthenticated", "the token is wrong");
}

async function bodyOf(request: Request): Promise<Readonly<Record<string, unknown>>> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > maxBodyBytes) throw new SandboxError("invalid_argument", "the request is too large");
    pieces.push(piece);
  }
  try {
    const body: unknown = JSON.parse(Buffer.concat(pieces).toString("utf8"));
    if (typeof body === "object" && body !== null) return body as Record<string, unknown>;
  } catch (cause) {
    throw new SandboxError("invalid_argument", "the request is not JSON", { cause });
  }
  throw new SandboxError("invalid_argument", "the request is not an object");
}
