import {
  Agent,
  createServer,
  type IncomingMessage,
  request as startRequest,
  type Server,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as connectTls, createSecureContext, rootCertificates, type SecureContext, TLSSocket } from "node:tls";
import { forwardedHeaders, forwardedRequestHeaders, withoutHeaders } from "@opensandbox/wire/forwarded-headers.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Header } from "@opensandbox/wire/header-rules.ts";
import { HttpConnections } from "../http-connections.ts";
import type { Refusal } from "../network-record.ts";
import { type Injected, sealHeaders, Unsealing } from "../secrets/sealed-text.ts";
import { hostOf } from "./host-name.ts";
import { explain, join } from "./relay.ts";

/** What the worker gives to take part in connections to one host. */
export interface Interception {
  /** For the guest, signed by the authority that it trusts. PEM. */
  readonly certificate: string;
  readonly privateKey: string;
  /** Every secret of the sandbox; those that this host may get have a value. */
  readonly secrets: readonly Injected[];
  /** Headers that every request to this host gets, instead of its own ones of the same names. */
  readonly headers: readonly Header[];
  /** Authorities that the host's own certificate may have, besides the well-known ones. PEM; empty: none. */
  readonly authorities: string;
}

interface Target {
  readonly name: string;
  readonly address: string;
  readonly port: number;
}

export interface SecretProxyOptions {
  readonly maxConnections: number;
  readonly requestTimeoutMs: number;
  connect(target: Target): Promise<{ readonly socket: Socket } | { readonly refusal: string }>;
  refuse(refusal: Refusal): void;
  /** Reports an error that no guest should be able to cause. */
  readonly defect: (error: unknown) => void;
}

/** A connection whose TLS ends here. */
interface Taken {
  readonly target: Target;
  readonly secrets: readonly Injected[];
  readonly headers: readonly Header[];
  readonly agent: Agent;
  open(): Promise<Duplex>;
}

/** A larger body passes unchanged: requests with a secret in their body, such as a token exchange, are small. */
const maxBodyBytes = 2 ** 20;

/** Bodies of one guest that are waited for at the same time, in bytes. */
const maxWaitingBytes = 16 * 2 ** 20;

/** A guest sends a body of at most {@link maxBodyBytes} within this time. */
const bodyTimeoutMs = 60_000;

/** From the beginning of the connection to a server until its TLS is established. */
const handshakeTimeoutMs = 30_000;

/**
 * The proxy for TLS connections to the hosts of a sandbox's secrets and header rules. It ends the guest's TLS, puts values
 * in place of sealed texts, and sends the requests over TLS of its own to the server, whose certificate must be valid for
 * the name. Protocol: HTTP/1.1, with upgrades. A secret is put into headers, the request's target, and JSON and form
 * bodies of at most {@link maxBodyBytes}.
 */
export class SecretProxy implements Disposable {
  readonly #options: SecretProxyOptions;
  readonly #http: Server;
  readonly #connections: HttpConnections;
  readonly #taken = new WeakMap<object, Taken>();
  /** Bytes of bodies that have arrived and are not answered. */
  readonly #waiting = { bytes: 0 };

  constructor(options: SecretProxyOptions) {
    this.#options = options;
    const { maxConnections, requestTimeoutMs, defect } = options;
    this.#http = createServer({ keepAliveTimeout: requestTimeoutMs }, (request, response) => {
      this.#forward(request, response).catch((error: unknown) => {
        defect(error);
        response.destroy();
      });
    });
    this.#http.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      this.#upgrade(request, socket, head).catch((error: unknown) => {
        defect(error);
        socket.destroy();
      });
    });
    this.#http.on("connect", (_request, socket) => socket.destroy());
    // The guest may not trust the certificate, or not speak HTTP.
    this.#http.on("clientError", (_error, socket) => socket.destroy());
    this.#connections = new HttpConnections(this.#http, { maxConnections, requestTimeoutMs, until: "head" });
  }

  /** Takes a connection whose first bytes have been read. False when the guest has too many; the caller still owns it. */
  take(socket: Socket, target: Target, interception: Interception, beginning: Buffer): boolean {
    const { certificate, privateKey, secrets, headers, authorities } = interception;
    socket.unshift(beginning);
    const guest = new TLSSocket(socket, {
      isServer: true,
      // HTTP/2 is not offered: a client that speaks nothing else is refused.
      ALPNProtocols: ["http/1.1"],
      secureContext: createSecureContext({ cert: certificate, key: privateKey, minVersion: "TLSv1.2" }),
    });
    guest.on("error", () => guest.destroy());
    const open = (): Promise<Duplex> => this.#open(target, contextOf(authorities));
    const agent = new HostAgent(open);
    this.#taken.set(guest, { target, secrets, headers, agent, open });
    guest.once("close", () => {
      agent.destroy();
      socket.destroy();
    });
    return this.#connections.take(guest);
  }

  [Symbol.dispose](): void {
    this.#http.close();
    this.#connections[Symbol.dispose]();
  }

  /** A verified connection to the server. @throws `permission_denied` or `unavailable`, in words for the guest */
  async #open(target: Target, secureContext: SecureContext): Promise<Duplex> {
    const connected = await this.#options.connect(target);
    if ("refusal" in connected) {
      this.#log(target, connected.refusal);
      throw new SandboxError("permission_denied", connected.refusal);
    }
    const { socket } = connected;
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    const server = connectTls({ socket, servername: target.name, ALPNProtocols: ["http/1.1"], secureContext });
    socket.on("error", (error) => server.destroy(error));
    server.once("secureConnect", () => resolve(server));
    server.on("error", (error: NodeJS.ErrnoException) => {
      const isUntrusted = server.authorizationError !== null && server.authorizationError !== undefined;
      const reason = isUntrusted
        ? `the server's certificate is not valid for ${target.name}: no secret was sent`
        : "the server cannot be reached";
      if (isUntrusted) this.#log(target, reason);
      reject(new SandboxError("unavailable", reason, { cause: error }));
    });
    server.once("close", () => reject(new SandboxError("unavailable", unreachable)));
    const timer = setTimeout(() => server.destroy(new Error("the TLS handshake took too long")), handshakeTimeoutMs);
    return await promise.finally(() => clearTimeout(timer));
  }

  #takenOf(request: IncomingMessage): Taken {
    const taken = this.#taken.get(request.socket);
    if (taken === undefined) throw new SandboxError("internal", "a request without a connection");
    return taken;
  }

  async #forward(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.on("error", () => response.destroy());
    response.on("error", () => response.destroy());
    const taken = this.#takenOf(request);
    const unsealing = new Unsealing(secretsFor(request, taken));
    const target = unsealing.target(request.url ?? "/");
    const kind = kindOfBody(request);
    let body: Buffer | undefined;
    if (kind !== undefined) {
      const content = await bodyOf(request, response, this.#waiting);
      if (content === "no room") return explain(response, 503, "too many requests with bodies at once: try again");
      if (content === "broken off" || response.destroyed) return void response.destroy();
      body = content === "too long" ? undefined : unsealing[kind](content);
    }
    const raw = headersOf(request, taken);
    const headers = unsealing.headers(body === undefined ? raw : withLength(raw, body.length));
    this.#report(taken, request, unsealing);
    try {
      this.#exchange({ request, response, taken, target, headers, body });
    } catch {
      // Node's client checks more than its server does.
      explain(response, 400, "the request cannot be passed on");
    }
  }

  #exchange({ request, response, taken, target, headers, body }: Exchange): void {
    const upstream = startRequest({
      ...{ method: request.method, path: target, headers, setHost: false, agent: taken.agent },
    });
    upstream.on("response", (answer) => {
      answer.on("error", () => response.destroy());
      const sealed = sealHeaders(forwardedHeaders(answer.rawHeaders), taken.secrets);
      try {
        response.writeHead(answer.statusCode ?? 502, answer.statusMessage, sealed);
      } catch {
        // Node's parser accepts statuses and reasons that Node does not send.
        upstream.destroy();
        return explain(response, 502, "the server's answer cannot be passed on");
      }
      // A stream of events begins with its head.
      response.flushHeaders();
      answer.pipe(response);
    });
    upstream.on("error", (error) => {
      // The server has closed a connection that was kept: the guest sees the same, and repeats what it may repeat.
      if (upstream.reusedSocket && !response.headersSent) return void response.destroy();
      const isKnown = error instanceof SandboxError;
      explain(
        response,
        isKnown && error.code === "permission_denied" ? 403 : 502,
        isKnown ? error.message : unreachable,
      );
    });
    if (body === undefined) request.pipe(upstream);
    else upstream.end(body);
    request.on("error", () => upstream.destroy());
    response.once("close", () => {
      if (!response.writableFinished) upstream.destroy();
    });
  }

  /** Joins the two connections when the server agrees to the upgrade; otherwise its answer is sent, and both end. */
  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", () => socket.destroy());
    const taken = this.#takenOf(request);
    const unsealing = new Unsealing(secretsFor(request, taken));
    const target = unsealing.target(request.url ?? "/");
    const headers = unsealing.headers(headersOf(request, taken));
    this.#report(taken, request, unsealing);
    let stream: Duplex;
    try {
      stream = await taken.open();
    } catch (error) {
      const text = error instanceof SandboxError ? error.message : unreachable;
      return void socket.end(`HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nopensandbox: ${text}\n`);
    }
    socket.once("close", () => stream.destroy());
    if (socket.destroyed) return void stream.destroy();
    const upstream = startRequest({
      ...{ method: request.method, path: target, setHost: false, createConnection: () => stream },
      headers: [...headers, "Connection", "Upgrade", "Upgrade", request.headers.upgrade ?? ""],
    });
    upstream.on("error", () => socket.destroy());
    upstream.once("response", (answer) => {
      socket.write(
        headOf(answer, [...sealHeaders(forwardedHeaders(answer.rawHeaders), taken.secrets), "Connection", "close"]),
      );
      answer.pipe(socket);
    });
    upstream.once("upgrade", (answer, _stream, rest: Buffer) => {
      const agreed = ["Connection", "Upgrade", "Upgrade", answer.headers.upgrade ?? ""];
      socket.write(headOf(answer, [...sealHeaders(forwardedHeaders(answer.rawHeaders), taken.secrets), ...agreed]));
      if (rest.length > 0) socket.write(rest);
      if (head.length > 0) stream.write(head);
      join(socket as Socket, stream as Socket);
    });
    upstream.end();
  }

  /** Records sealed texts that were sent as they are, which is often a mistake in the hosts of a secret. */
  #report({ target, secrets }: Taken, request: IncomingMessage, { kept }: Unsealing): void {
    for (const name of kept) {
      const isMisdirected = secrets.some((secret) => secret.name === name && secret.value !== undefined);
      const why = isMisdirected
        ? `for the Host ${(request.headers.host ?? "").slice(0, 100)}, which is not that of the connection`
        : "for this host";
      const what =
        name === undefined
          ? "a sealed text that is no secret of the sandbox"
          : `the secret ${name} is not ${why}, and its sealed text`;
      this.#log(target, `${what} was sent as it is`);
    }
  }

  #log({ name, address, port }: Target, reason: string): void {
    this.#options.refuse({ protocol: "tls", host: name, address, port, reason });
  }
}

/** Keeps one connection to the host for each connection of the guest. */
class HostAgent extends Agent {
  readonly #open: () => Promise<Duplex>;

  constructor(open: () => Promise<Duplex>) {
    super({ keepAlive: true, maxSockets: 1 });
    this.#open = open;
  }

  override createConnection(_options: object, done: (error: Error | null, stream: Duplex) => void): undefined {
    void this.#connect(done);
  }

  async #connect(done: (error: Error | null, stream: Duplex) => void): Promise<void> {
    let stream: Duplex;
    try {
      stream = await this.#open();
    } catch (error) {
      return done(error as Error, undefined as never);
    }
    done(null, stream);
  }
}

const unreachable = "the server cannot be reached";

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly taken: Taken;
  readonly target: string;
  readonly headers: readonly string[];
  /** The body with its values. Absent: the request's own, as it arrives. */
  readonly body: Buffer | undefined;
}

/** A server may serve several names, so a request for another one than that of the connection gets no value. */
function secretsFor(request: IncomingMessage, { target, secrets }: Taken): readonly Injected[] {
  if (hostOf(request).name === target.name) return secrets;
  return secrets.map(({ name, sealed }) => ({ name, sealed }));
}

/** The headers of a request as it is sent: those of the rules after the guest's own, also for a name in `Connection`. */
function headersOf(request: IncomingMessage, { target, headers }: Taken): string[] {
  const raw = forwardedRequestHeaders(request.method ?? "", request.rawHeaders);
  if (headers.length === 0 || hostOf(request).name !== target.name) return raw;
  return [...withoutHeaders(raw, new Set(headers.map(([name]) => name.toLowerCase()))), ...headers.flat()];
}

/** The kind of a body in which sealed texts are replaced. */
function kindOfBody({ headers }: IncomingMessage): "json" | "form" | undefined {
  const { "content-type": type = "", "content-encoding": encoding = "identity", "content-length": length } = headers;
  if (length === undefined && headers["transfer-encoding"] === undefined) return undefined;
  if (encoding.trim().toLowerCase() !== "identity" || Number(length ?? 0) > maxBodyBytes) return undefined;
  const [media = ""] = type.toLowerCase().split(";");
  if (/^application\/(?:[\w.+-]+\+)?json$/.test(media.trim())) return "json";
  return media.trim() === "application/x-www-form-urlencoded" ? "form" : undefined;
}

/** The body of a request. One that is too long stays in the request, from its first byte on. */
async function bodyOf(
  request: IncomingMessage,
  response: ServerResponse,
  waiting: { bytes: number },
): Promise<Buffer | "too long" | "no room" | "broken off"> {
  const { promise, resolve } = Promise.withResolvers<Buffer | "too long" | "no room" | "broken off">();
  const parts: Buffer[] = [];
  let bytes = 0;
  response.once("close", () => (waiting.bytes -= bytes));
  const onData = (chunk: Buffer): void => {
    parts.push(chunk);
    bytes += chunk.length;
    waiting.bytes += chunk.length;
    if (waiting.bytes > maxWaitingBytes) resolve("no room");
    else if (bytes > maxBodyBytes) resolve("too long");
    else return;
    request.pause();
  };
  const onEnd = (): void => resolve(Buffer.concat(parts));
  const onClose = (): void => resolve("broken off");
  request.on("data", onData);
  request.once("end", onEnd);
  request.once("close", onClose);
  const timer = setTimeout(onClose, bodyTimeoutMs);
  const body = await promise;
  clearTimeout(timer);
  request.off("data", onData);
  request.off("end", onEnd);
  request.off("close", onClose);
  if (body === "too long") request.unshift(Buffer.concat(parts));
  return body;
}

function withLength(raw: readonly string[], length: number): string[] {
  return [...withoutHeaders(raw, new Set(["content-length", "transfer-encoding"])), "Content-Length", String(length)];
}

function headOf({ statusCode, statusMessage }: IncomingMessage, headers: readonly string[]): string {
  const lines = Array.from({ length: headers.length / 2 }, (_, at) => `${headers[2 * at]}: ${headers[2 * at + 1]}\r\n`);
  return `HTTP/1.1 ${statusCode} ${statusMessage}\r\n${lines.join("")}\r\n`;
}

const contexts = new Map<string, SecureContext>();

/** The context of connections to servers. Making one reads every well-known authority, so it is kept. */
function contextOf(authorities: string): SecureContext {
  const known = contexts.get(authorities);
  if (known !== undefined) return known;
  const made = createSecureContext({
    minVersion: "TLSv1.2",
    ...(authorities === "" ? {} : { ca: [...rootCertificates, authorities] }),
  });
  contexts.clear();
  contexts.set(authorities, made);
  return made;
}
