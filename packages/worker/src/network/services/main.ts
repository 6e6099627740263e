// The process of the guest-facing network services: name server, web proxy and metadata service of every network that
// the worker hands over. It parses bytes of guests and servers, so it has no rights: docs/decisions/0019. Its argument is
// the id of the user that it becomes.
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { becomeUser } from "#host/confined-process.ts";
import { dieWithParent, limitThisProcess } from "#host/kernel/libc.ts";
import { receiveDescriptors } from "#host/kernel/sockets.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { matchesHost } from "@opensandbox/wire/secret-hosts.ts";
import { serveMetadata } from "../metadata-service.ts";
import { askOver } from "../names/host-resolvers.ts";
import { serveNames } from "../names/name-server.ts";
import { type CompiledPolicy, compilePolicy } from "../policy.ts";
import { serveWeb, type WebProxy, type WebSecrets } from "../web/web-proxy.ts";
import { readLines } from "#host/protocols/lines.ts";
import {
  type FromServices,
  type Reply,
  type Request,
  type SocketKind,
  socketKinds,
  type ToServices,
} from "./messages.ts";

const descriptorSocket = 3;

/** Address space beyond that of the loaded modules: V8's heap and the buffers of connections. */
const maxMemoryBytes = 1024 * 2 ** 20;

/** The longest line of the worker is a policy of some hundred kilobytes. */
const maxLineBytes = 16 * 2 ** 20;

/** The worker replies at once, except to metadata requests, for which it asks the guest for some seconds. */
const replyTimeoutMs = 30_000;
const maxPending = 16_384;

const connectTimeoutMs = 30_000;

/** The services of one network. */
class Network implements Disposable {
  readonly #id: number;
  readonly #services = new DisposableStack();
  #policy: CompiledPolicy;
  #secrets: Pick<State, "secretHosts" | "secretsVersion">;
  #web: WebProxy | undefined;

  constructor(id: number, policy: CompiledPolicy, secrets: Pick<State, "secretHosts" | "secretsVersion">) {
    this.#id = id;
    this.#policy = policy;
    this.#secrets = secrets;
  }

  /** Takes a new policy, and the sockets that the network lacks. */
  update(policy: CompiledPolicy, secrets: Pick<State, "secretHosts" | "secretsVersion">, sockets: Sockets): void {
    this.#policy = policy;
    this.#secrets = secrets;
    const shared = {
      policy: () => this.#policy,
      refuse: (refusal: Extract<FromServices, { kind: "refused" }>["refusal"]) =>
        send({ kind: "refused", network: this.#id, refusal: { ...refusal, reason: plain(refusal.reason, 250) } }),
      defect: (error: unknown) => {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
        send({ kind: "defect", network: this.#id, text: plain(text, 4000) });
      },
    };
    const { datagrams, streams, metadata, web } = sockets;
    if (datagrams !== undefined && streams !== undefined) {
      const ask = askOver((transport, attempt) => this.#openResolver(transport, attempt));
      const pinned = {
        pin: async (name: string, addresses: readonly number[], ttlSeconds: number) => {
          errorOf(await this.#request({ ask: "pin", name, addresses, ttlSeconds }));
        },
      };
      this.#services.use(serveNames({ ...shared, sockets: { datagrams, streams }, ask, pinned }));
    }
    if (metadata !== undefined) {
      this.#services.use(
        serveMetadata({
          ...{ listener: metadata, defect: shared.defect },
          answer: async (endpoint, body) => {
            const { reply } = await this.#request({ ask: "metadata", endpoint, body });
            return "status" in reply ? reply : { status: 503, body: { error: "not available: try again" } };
          },
        }),
      );
    }
    if (web !== undefined) {
      this.#web = this.#services.use(
        serveWeb({
          ...{ ...shared, listener: web, secrets: this.#webSecrets() },
          connect: (target) => this.#connect(target),
        }),
      );
    }
    this.#web?.judgeAgain();
  }

  [Symbol.dispose](): void {
    this.#services[Symbol.dispose]();
  }

  async #openResolver(transport: "udp" | "tcp", attempt: number): ReturnType<Parameters<typeof askOver>[0]> {
    const { reply, descriptor } = await this.#request({ ask: "resolver", transport, attempt });
    if (descriptor !== undefined) return { descriptor };
    return "refusal" in reply ? { exhausted: reply.refusal } : { unreachable: true };
  }

  async #connect(target: {
    readonly name: string | undefined;
    readonly address: string;
    readonly port: number;
  }): Promise<{ readonly socket: Socket } | { readonly refusal: string }> {
    const { reply, descriptor } = await this.#request({ ask: "connect", ...target });
    if (descriptor === undefined) {
      if ("refusal" in reply) return reply;
      throw new SandboxError("unavailable", "error" in reply ? reply.error : "no connection");
    }
    const socket = new Socket({ fd: descriptor, allowHalfOpen: true });
    // A socket that is still connecting has no peer.
    const timer = setTimeout(() => {
      if (socket.remoteAddress === undefined) socket.destroy(new Error("the connection was not established in time"));
    }, connectTimeoutMs);
    socket.once("close", () => clearTimeout(timer));
    return { socket };
  }

  #webSecrets(): WebSecrets {
    const present = () => this.#secrets;
    return {
      areFor: (name) => matchesHost(present().secretHosts, name),
      get version() {
        return present().secretsVersion;
      },
      intercept: async (name) => {
        const { reply } = await this.#request({ ask: "intercept", name });
        if ("interception" in reply) return reply.interception;
        return { refusal: "refusal" in reply ? reply.refusal : "the worker cannot provide the secrets: try again" };
      },
    };
  }

  #request(request: Request): Promise<Answered> {
    return ask(this.#id, request);
  }
}

type State = Extract<ToServices, { kind: "network" }>;
type Sockets = Partial<Record<SocketKind, number>>;

interface Answered {
  readonly reply: Reply;
  readonly descriptor: number | undefined;
}

const networks = new Map<number, Network>();
const pending = new Map<number, (answered: Answered) => void>();
let lastRequest = 0;

async function ask(network: number, request: Request): Promise<Answered> {
  if (pending.size >= maxPending) throw new SandboxError("unavailable", "too many requests to the worker at once");
  const { promise, resolve, reject } = Promise.withResolvers<Answered>();
  lastRequest += 1;
  const id = lastRequest;
  pending.set(id, resolve);
  const timer = setTimeout(() => {
    // `receive` closes the descriptor of a late reply.
    pending.delete(id);
    reject(new SandboxError("unavailable", `the worker has not answered "${request.ask}" within 30 s`));
  }, replyTimeoutMs);
  send({ kind: "request", id, network, request });
  return await promise.finally(() => clearTimeout(timer));
}

function errorOf({ reply }: Answered): void {
  if ("error" in reply) throw new SandboxError("unavailable", reply.error);
}

function receive(message: ToServices): void {
  switch (message.kind) {
    case "ping":
      return send({ kind: "pong" });
    case "network": {
      const { network: id, sockets } = message;
      const descriptors = sockets.length === 0 ? [] : receiveDescriptors(descriptorSocket, socketKinds.length);
      const policy = compilePolicy(message.policy);
      const network = networks.get(id) ?? new Network(id, policy, message);
      networks.set(id, network);
      network.update(policy, message, Object.fromEntries(sockets.map((kind, index) => [kind, descriptors[index]])));
      return send({ kind: "applied", network: id, change: message.change });
    }
    case "gone":
      networks.get(message.network)?.[Symbol.dispose]();
      networks.delete(message.network);
      return send({ kind: "ended", network: message.network });
    case "reply": {
      const { id, reply } = message;
      const [descriptor] = "descriptor" in reply ? receiveDescriptors(descriptorSocket, 1) : [];
      const resolve = pending.get(id);
      pending.delete(id);
      if (resolve !== undefined) return resolve({ reply, descriptor });
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }
}

/** The worker treats a control character as a fault of this process. */
function plain(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replaceAll(/[^\n\x20-\x7e]/g, "?");
}

function send(message: FromServices): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

process.stdin.on("end", () => process.exit());
process.stdout.on("error", () => process.exit());
becomeUser(Number(process.argv[2]));
dieWithParent();
limitThisProcess(maxMemoryBytes);
send({ kind: "ready" });
readLines(
  process.stdin,
  maxLineBytes,
  (line) => receive(JSON.parse(line) as ToServices),
  () => process.exit(1),
);
