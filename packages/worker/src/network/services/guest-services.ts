import { closeSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { type ConfinedProcess as ServicesChild, startConfinedProcess } from "#host/confined-process.ts";
import { openDescriptorPair, sendDescriptors } from "#host/sockets.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import type { MetadataAnswer, MetadataEndpoint } from "../metadata-service.ts";
import type { OpenResolver } from "../names/host-resolvers.ts";
import type { Refusal } from "../network-record.ts";
import { readLines } from "./lines.ts";
import {
  type FromServices,
  maxLineBytes,
  parseFromServices,
  type Reply,
  type Request,
  type SocketKind,
  type ToServices,
} from "./messages.ts";

type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

/** What the services may ask for one network. Every argument comes from them, so it is checked here once more. */
export interface NetworkAuthority {
  /** A socket of the network that is being connected there, or why the policy does not allow it. */
  connect(target: {
    readonly name: string | undefined;
    readonly address: string;
    readonly port: number;
  }): { readonly descriptor: number } | { readonly refusal: string };
  /** Lets addresses out. @throws when the policy does not allow the name */
  pin(name: string, addresses: readonly number[], ttlSeconds: number): void;
  metadata(endpoint: MetadataEndpoint, body: unknown): Promise<MetadataAnswer>;
  refused(refusal: Refusal): void;
  defect(text: string): void;
}

/** The services of one network. Disposing it ends them and closes its sockets. */
export interface ServedNetwork extends Disposable {
  /** Resolves when the services hold to the policy, or have not said so within 100 ms; never rejects. */
  hold(policy: NetworkPolicy): Promise<void>;
  /** Hands one more socket over. */
  add(kind: SocketKind, descriptor: number): void;
  /** As disposing, and resolves when the services have closed their copies. */
  end(): Promise<void>;
}

/** Descriptors of sockets in the namespace of a network. The web proxy's is there where names decide. */
export type NetworkSockets = Readonly<Record<Exclude<SocketKind, "web">, number> & Partial<Record<"web", number>>>;

export interface GuestServicesOptions {
  readonly log: Log;
  readonly openResolver: OpenResolver;
  /** What is run; tests give it faults. */
  readonly module?: string;
}

/** The user and group of the process, below those of machines (firstMachineUser in machine/). */
const servicesUser = 1_899_999_999;
const maxHeapMib = 256;

/** Unanswered pings, one each {@link pingMs}, after which the process is taken for stalled: one second. */
const maxUnanswered = 4;
const pingMs = 250;

/** From the process's start until it serves: on a crowded host. */
const startTimeoutMs = 10_000;

/** A process that ends sooner than this is not started again at once. */
const minLifeMs = 1000;
const restartDelayMs = 500;

/** Networks that are on their way to the process at once: its socket holds as many messages. */
const maxHandovers = 16;

/** A process that has not taken a policy in this time is stalled; nobody waits for it longer. */
const holdTimeoutMs = 100;

/** A stalled process is gone before. */
const endTimeoutMs = 3000;

/** The end of what the process has written to its standard error is kept for the log. */
const maxComplaintLength = 2000;

type NetworkMessage = Extract<FromServices, { kind: "applied" | "request" | "refused" | "defect" }>;

/** Questions of one guest to its metadata service that are being answered. */
const maxMetadataQuestions = 64;

/**
 * Keeps the process of the guest-facing services: hands it the sockets and policies of all networks, answers what it
 * asks, and replaces it when it ends or stalls. Between two processes the kernel
 * queues what guests send.
 */
export class GuestServices implements AsyncDisposable {
  readonly #options: GuestServicesOptions;
  readonly #networks = new Map<number, Served>();
  /** Networks with something to hand over. */
  readonly #changed = new Set<Served>();
  #lastNetwork = 0;
  #process: ServicesProcess | undefined;
  #restarting: NodeJS.Timeout | undefined;
  #disposed = false;

  constructor(options: GuestServicesOptions) {
    this.#options = options;
  }

  /** Of the present process; undefined between two of them. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** Starts the process, if it was not. Nothing waits for it. */
  start(): void {
    if (this.#process === undefined && this.#restarting === undefined && !this.#disposed) this.#start();
  }

  /** Serves a network on `sockets`, which it owns from now on. Does not wait for the process. */
  serve(sockets: NetworkSockets, policy: NetworkPolicy, authority: NetworkAuthority): ServedNetwork {
    this.#lastNetwork += 1;
    const served = new Served(this.#lastNetwork, sockets, policy, authority);
    this.#networks.set(served.id, served);
    this.#change(served);
    this.start();
    return {
      add: (kind, descriptor) => {
        served.sockets.set(kind, descriptor);
        this.#change(served);
      },
      hold: async (policy) => {
        served.policy = policy;
        this.#change(served);
        // A process that starts has the policy before it serves anybody.
        if (this.#process?.ready === true) await served.untilApplied(holdTimeoutMs);
      },
      end: async () => {
        this.#end(served);
        await served.untilApplied(endTimeoutMs);
      },
      [Symbol.dispose]: () => this.#end(served),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    clearTimeout(this.#restarting);
    for (const served of [...this.#networks.values()]) this.#end(served);
    await this.#process?.[Symbol.asyncDispose]();
  }

  #end(served: Served): void {
    if (!this.#networks.delete(served.id)) return;
    this.#changed.delete(served);
    for (const descriptor of served.sockets.values()) closeSync(descriptor);
    served.sockets.clear();
    // A process that has never heard of it has nothing to end.
    if (this.#process === undefined || served.handedOver.size === 0) return served.applied(served.change);
    served.change += 1;
    this.#process.end(served);
  }

  #change(served: Served): void {
    served.change += 1;
    this.#changed.add(served);
    this.#pump();
  }

  #pump(): void {
    for (const served of this.#changed) {
      if (this.#process?.handOver(served) !== true) return;
      this.#changed.delete(served);
    }
  }

  #start(): void {
    this.#restarting = undefined;
    const process = new ServicesProcess(this.#options.module ?? join(import.meta.dirname, "main.ts"), {
      onMessage: (message) => this.#receive(process, message),
      onTick: () => this.#pump(),
      onEnd: (how) => this.#replace(process, how),
    });
    this.#process = process;
    for (const served of this.#networks.values()) {
      served.handedOver.clear();
      this.#changed.add(served);
    }
    this.#pump();
  }

  #replace(process: ServicesProcess, how: string): void {
    this.#process = undefined;
    for (const served of this.#networks.values()) served.applied(served.change);
    if (this.#disposed) return;
    const delayMs = performance.now() - process.startedAt < minLifeMs ? restartDelayMs : 0;
    this.#options.log("error", "the guest-facing network services have ended and are started again", { how, delayMs });
    this.#restarting = setTimeout(() => this.#start(), delayMs).unref();
  }

  #receive(process: ServicesProcess, message: NetworkMessage): void {
    const served = this.#networks.get(message.network);
    switch (message.kind) {
      case "applied":
        served?.applied(message.change);
        return this.#pump();
      case "refused":
        return served?.authority.refused(message.refusal);
      case "defect":
        return served?.authority.defect(message.text);
      case "request": {
        const { id, request } = message;
        this.#answer(served, request)
          .catch((error: unknown) => ({ error: asSandboxError(error).message }))
          .then((answer) => process.reply(id, answer))
          .catch((error: unknown) => process.kill(`cannot be answered: ${String(error)}`));
      }
    }
  }

  async #answer(served: Served | undefined, request: Request): Promise<Answer> {
    if (served === undefined) return { error: "the network is gone" };
    const { authority } = served;
    switch (request.ask) {
      case "resolver": {
        const opened = await this.#options.openResolver(request.transport, request.attempt);
        if ("descriptor" in opened) return opened;
        return "exhausted" in opened ? { refusal: opened.exhausted } : { error: "out of reach" };
      }
      case "connect":
        return authority.connect({ name: request.name, address: request.address, port: request.port });
      case "pin":
        authority.pin(request.name, request.addresses, request.ttlSeconds);
        return { done: true };
      case "metadata": {
        if (served.metadataQuestions >= maxMetadataQuestions) return { error: "too many questions at once" };
        served.metadataQuestions += 1;
        try {
          return await authority.metadata(request.endpoint, request.body);
        } finally {
          served.metadataQuestions -= 1;
        }
      }
    }
  }
}

/** A descriptor is sent, and then closed here. */
type Answer = Exclude<Reply, { readonly descriptor: true }> | { readonly descriptor: number };

/** What the process must know of one network, and what it knows. */
class Served {
  readonly id: number;
  readonly sockets: Map<SocketKind, number>;
  readonly authority: NetworkAuthority;
  policy: NetworkPolicy;
  /** Sockets that the present process has. */
  readonly handedOver = new Set<SocketKind>();
  metadataQuestions = 0;
  /** Counts changes. */
  change = 0;
  #applied = 0;
  readonly #waiting = new Set<() => void>();

  constructor(id: number, sockets: NetworkSockets, policy: NetworkPolicy, authority: NetworkAuthority) {
    this.id = id;
    this.sockets = new Map(Object.entries(sockets) as [SocketKind, number][]);
    this.policy = policy;
    this.authority = authority;
  }

  /** The process has come as far as this change. */
  applied(change: number): void {
    this.#applied = Math.max(this.#applied, change);
    if (this.#applied < this.change) return;
    for (const done of this.#waiting) done();
  }

  /** Until every change has been applied, or the time is over. */
  async untilApplied(timeoutMs: number): Promise<void> {
    if (this.#applied >= this.change) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    const timer = setTimeout(resolve, timeoutMs);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(resolve);
  }
}

interface ProcessEvents {
  onMessage(message: NetworkMessage): void;
  onTick(): void;
  onEnd(how: string): void;
}

/** One life of the services. */
class ServicesProcess implements AsyncDisposable {
  readonly startedAt = performance.now();
  ready = false;
  readonly #child: ServicesChild;
  readonly #descriptors: number;
  readonly #events: ProcessEvents;
  readonly #ticking: NodeJS.Timeout;
  readonly #ended = Promise.withResolvers<void>();
  /** Networks that the process is to forget. */
  readonly #ending = new Map<number, Served>();
  #handovers = 0;
  #unanswered = 0;
  #complaint = "";
  /** Why this side has killed it. */
  #reason: string | undefined;
  #closed = false;

  constructor(module: string, events: ProcessEvents) {
    this.#events = events;
    const [ours, theirs] = openDescriptorPair();
    this.#descriptors = ours;
    try {
      this.#child = startConfinedProcess({ module, args: [String(servicesUser)], maxHeapMib, descriptor: theirs });
    } finally {
      closeSync(theirs);
    }
    const { stdin, stdout, stderr } = this.#child;
    for (const stream of [stdin, stdout, stderr]) {
      stream.on("error", () => undefined);
      // Part of this process's life, and no reason for it to live.
      (stream as Partial<Socket>).unref?.();
    }
    stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-maxComplaintLength);
    });
    readLines(
      stdout,
      maxLineBytes,
      (line) => this.#receive(line),
      () => this.kill("sent a line that is too long"),
    );
    this.#child.once("error", (error) => this.#end(`cannot be run: ${error.message}`));
    this.#child.once("exit", (code, signal) => this.#end(this.#reason ?? `ended with ${signal ?? `code ${code}`}`));
    this.#ticking = setInterval(() => this.#tick(), pingMs).unref();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Sends all that the process must know of a network. False when it has too much to take already. */
  handOver(served: Served): boolean {
    if (this.#handovers >= maxHandovers) return false;
    const kinds = [...served.sockets.keys()].filter((kind) => !served.handedOver.has(kind));
    const descriptors = kinds.map((kind) => served.sockets.get(kind)!);
    if (kinds.length > 0 && !sendDescriptors(this.#descriptors, descriptors)) return false;
    for (const kind of kinds) served.handedOver.add(kind);
    const { id, change, policy } = served;
    this.#handovers += 1;
    this.#send({ kind: "network", network: id, change, policy, sockets: kinds });
    return true;
  }

  /** Lets the process forget a network. */
  end(served: Served): void {
    this.#ending.set(served.id, served);
    this.#send({ kind: "gone", network: served.id });
  }

  reply(id: number, answer: Answer): void {
    if (!("descriptor" in answer)) return this.#send({ kind: "reply", id, reply: answer });
    try {
      const sent = !this.#closed && sendDescriptors(this.#descriptors, [answer.descriptor]);
      this.#send({ kind: "reply", id, reply: sent ? { descriptor: true } : { error: "too many descriptors at once" } });
    } finally {
      closeSync(answer.descriptor);
    }
  }

  kill(reason: string): void {
    this.#reason ??= reason;
    this.#child.kill("SIGKILL");
  }

  /** Kills it and waits until it is gone, and with it its copies of all sockets. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.ref();
    this.kill("is not needed any more");
    await this.#ended.promise;
  }

  /** Only ticks of this process's loop count: when it stood still itself, the other one's answers are still unread. */
  #tick(): void {
    const { ready, startedAt } = this;
    if (!ready && performance.now() - startedAt > startTimeoutMs) return this.kill("has not started within 10 s");
    if (ready && this.#unanswered >= maxUnanswered) return this.kill("has not answered for a second");
    if (ready) this.#unanswered += 1;
    if (ready) this.#send({ kind: "ping" });
    this.#events.onTick();
  }

  #receive(line: string): void {
    if (this.#closed) return;
    const message = parseFromServices(line);
    if (message === undefined) return this.kill("sent an invalid message");
    switch (message.kind) {
      case "ready":
        this.ready = true;
        return;
      case "pong":
        this.#unanswered = 0;
        return;
      case "ended":
        this.#forget(message.network);
        return;
      case "applied":
        this.#handovers = Math.max(0, this.#handovers - 1);
        return this.#events.onMessage(message);
      case "request":
      case "refused":
      case "defect":
        return this.#events.onMessage(message);
    }
  }

  #forget(network: number): void {
    const served = this.#ending.get(network);
    this.#ending.delete(network);
    served?.applied(served.change);
  }

  #send(message: ToServices): void {
    if (!this.#closed) this.#child.stdin.write(`${JSON.stringify(message)}\n`);
  }

  #end(how: string): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#ticking);
    closeSync(this.#descriptors);
    for (const network of [...this.#ending.keys()]) this.#forget(network);
    this.#events.onEnd(this.#complaint === "" ? how : `${how}: ${this.#complaint}`);
    this.#ended.resolve();
  }
}
