import { closeSync } from "node:fs";
import type { Socket } from "node:net";
import { fileURLToPath } from "node:url";
import type { Log } from "#host/log.ts";
import { type ConfinedProcess as ServicesChild, startConfinedProcess } from "#host/confined-process.ts";
import { processState } from "#host/process-state.ts";
import { openDescriptorPair, sendDescriptors } from "#host/kernel/sockets.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { MetadataAnswer, MetadataEndpoint } from "../metadata-service.ts";
import type { OpenResolver } from "../names/host-resolvers.ts";
import type { Refusal } from "../network-record.ts";
import type { Interception } from "../web/secret-proxy.ts";
import { readLines } from "#host/protocols/lines.ts";
import {
  type FromServices,
  maxLineBytes,
  parseFromServices,
  type Reply,
  type Request,
  type SocketKind,
  type ToServices,
} from "./messages.ts";

/** The requests that the services may make for one network. Their arguments are untrusted. */
export interface NetworkAuthority {
  /** A socket of the network, connecting to the target, or the reason why the policy does not allow it. */
  connect(target: {
    readonly name: string | undefined;
    readonly address: string;
    readonly port: number;
  }): { readonly descriptor: number } | { readonly refusal: string };
  /** What the services need to take part in a connection to a host of the sandbox's secrets, or why they may not. */
  intercept(name: string): Promise<Interception | { readonly refusal: string }>;
  /** Admits addresses. @throws when the policy does not allow the name */
  pin(name: string, addresses: readonly number[], ttlSeconds: number): void;
  metadata(endpoint: MetadataEndpoint, body: unknown): Promise<MetadataAnswer>;
  refused(refusal: Refusal): void;
  defect(text: string): void;
}

/** What the services hold a network to. */
export interface ServedState {
  readonly policy: NetworkPolicy;
  /** Hosts of the sandbox's secrets and of its header rules. */
  readonly secretHosts: readonly string[];
  /** Rises when the secrets or the header rules change. */
  readonly secretsVersion: number;
}

/** The services of one network. Disposing it ends them and closes its sockets. */
export interface ServedNetwork extends Disposable {
  /** Resolves when the services have confirmed the state, at the latest after 100 ms; never rejects. */
  hold(state: ServedState): Promise<void>;
  /** Hands over one more socket, which the services own. */
  add(kind: SocketKind, descriptor: number): void;
  /**
   * Ends the services of the network. Resolves when they have closed their copies of the sockets, at the latest after 3
   * s.
   */
  end(): Promise<void>;
}

/** Descriptors of sockets in the namespace of a network. The web proxy has one only where a policy decides by names. */
export type NetworkSockets = Readonly<Record<Exclude<SocketKind, "web">, number> & Partial<Record<"web", number>>>;

export interface GuestServicesOptions {
  readonly log: Log;
  readonly openResolver: OpenResolver;
  /** The cgroups that the process runs in; absent: those of this process. */
  readonly cgroupEntrances?: readonly string[];
  /** The module to run; tests replace it by faulty ones. */
  readonly module?: string;
}

/** The user and group of the process, just below those of machines (firstMachineUser in machine/host-resources.ts). */
const servicesUser = 1_899_999_999;
const maxHeapMib = 256;

/** Unanswered pings after which the process counts as stalled, whatever it does: one second of silence. */
const maxUnanswered = 4;
const pingMs = 250;

/** While a ping is unanswered, the kernel is asked this often about the process. */
const lookMs = 50;

/** An answer may wait behind other messages for some turns of the event loop, such as after a pause of the worker. */
const minLooks = 3;

/** Processor time without an answer that shows an endless loop; the longest turn of an intact process takes some 10 ms. */
const maxBusyMs = 250;

/**
 * From the process's start until it serves: 0.3 s on an idle host, and half a minute on a crowded one that is emulated. A
 * start that is given up too early repeats for ever and takes the processor from everything else.
 */
const startTimeoutMs = 180_000;

/** After a shorter service the next process begins with a delay. */
const minLifeMs = 1000;

/** From the beginning of a process's service to the start of the next spare, so that a start does not delay sandboxes. */
const spareDelayMs = 1000;
const restartDelayMs = 500;

/** Handovers without a confirmation at the same time: few enough for the socket's buffer. */
const maxHandovers = 16;

/** A change of policy is answered after this time, even if a stalled process has not confirmed it. */
const holdTimeoutMs = 100;

/** A stalled process is killed before that. */
const endTimeoutMs = 3000;

/** The end of the process's standard error that is kept for the log. */
const maxComplaintLength = 2000;

type NetworkMessage = Extract<FromServices, { kind: "applied" | "request" | "refused" | "defect" }>;

/** Concurrent requests of one guest to its metadata service. */
const maxMetadataQuestions = 64;

/**
 * Supervises the process of the guest-facing services: hands it the sockets and policies of all networks, answers its
 * requests, and replaces it when it ends or stalls. A spare process waits for that, without sockets and without work.
 * Between two processes the kernel queues the guests' packets.
 */
export class GuestServices implements AsyncDisposable {
  readonly #options: GuestServicesOptions;
  readonly #networks = new Map<number, Served>();
  /** Networks with something to hand over. */
  readonly #changed = new Set<Served>();
  #lastNetwork = 0;
  #process: ServicesProcess | undefined;
  #spare: ServicesProcess | undefined;
  #restarting: NodeJS.Timeout | undefined;
  #startingSpare: NodeJS.Timeout | undefined;
  #disposed = false;

  constructor(options: GuestServicesOptions) {
    this.#options = options;
  }

  /** The current process; undefined between two of them. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** Starts the process unless it runs. Does not wait for it. */
  start(): void {
    if (this.#process === undefined && this.#restarting === undefined && !this.#disposed) this.#start();
  }

  /** Serves a network on `sockets`, which it owns from now on. Does not wait for the process. */
  serve(sockets: NetworkSockets, state: ServedState, authority: NetworkAuthority): ServedNetwork {
    this.#lastNetwork += 1;
    const served = new Served(this.#lastNetwork, sockets, state, authority);
    this.#networks.set(served.id, served);
    this.#change(served);
    this.start();
    return {
      add: (kind, descriptor) => {
        served.sockets.set(kind, descriptor);
        this.#change(served);
      },
      hold: async (state) => {
        served.state = state;
        this.#change(served);
        // A starting process receives the policy before it serves.
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
    clearTimeout(this.#startingSpare);
    for (const served of [...this.#networks.values()]) this.#end(served);
    await Promise.all([this.#process, this.#spare].map(async (process) => await process?.[Symbol.asyncDispose]()));
  }

  #end(served: Served): void {
    if (!this.#networks.delete(served.id)) return;
    this.#changed.delete(served);
    for (const descriptor of served.sockets.values()) closeSync(descriptor);
    served.sockets.clear();
    // A process that never received the network has nothing to end.
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
    try {
      this.#process = this.#takeSpare() ?? this.#startProcess();
    } catch (error) {
      // The host has no free descriptor or process.
      return this.#startLater(`cannot be started: ${asSandboxError(error).message}`, restartDelayMs);
    }
    this.#process.serve();
    for (const served of this.#networks.values()) {
      served.handedOver.clear();
      this.#changed.add(served);
    }
    this.#pump();
    this.#spareLater();
  }

  #startProcess(): ServicesProcess {
    const { module = fileURLToPath(import.meta.resolve("./main.ts")), cgroupEntrances = [] } = this.#options;
    const process = new ServicesProcess(module, cgroupEntrances, {
      onMessage: (message) => this.#receive(process, message),
      onTick: () => this.#pump(),
      onEnd: (how) => this.#replace(process, how),
    });
    return process;
  }

  /** The spare process, if it has started. */
  #takeSpare(): ServicesProcess | undefined {
    if (this.#spare?.ready !== true) return undefined;
    const spare = this.#spare;
    this.#spare = undefined;
    return spare;
  }

  #spareLater(): void {
    if (this.#disposed) return;
    this.#startingSpare ??= setTimeout(() => {
      this.#startingSpare = undefined;
      try {
        this.#spare ??= this.#startProcess();
      } catch (error) {
        // Without a spare, a replacement takes as long as a start.
        const { message } = asSandboxError(error);
        this.#options.log("warn", "no spare process of the guest-facing network services", { error: message });
        this.#spareLater();
      }
    }, spareDelayMs).unref();
  }

  #replace(process: ServicesProcess, how: string): void {
    if (process === this.#spare) {
      this.#spare = undefined;
      return this.#spareLater();
    }
    this.#process = undefined;
    for (const served of this.#networks.values()) served.applied(served.change);
    if (this.#disposed) return;
    this.#startLater(how, process.servedMs < minLifeMs ? restartDelayMs : 0);
  }

  #startLater(how: string, delayMs: number): void {
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
      case "intercept": {
        const intercepted = await authority.intercept(request.name);
        return "refusal" in intercepted ? intercepted : { interception: intercepted };
      }
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

/** A reply; its descriptor is sent to the process and closed here. */
type Answer = Exclude<Reply, { readonly descriptor: true }> | { readonly descriptor: number };

/** The desired state of one network in the process, and the confirmed one. */
class Served {
  readonly id: number;
  readonly sockets: Map<SocketKind, number>;
  readonly authority: NetworkAuthority;
  state: ServedState;
  /** Sockets that the present process has. */
  readonly handedOver = new Set<SocketKind>();
  metadataQuestions = 0;
  /** The number of the last change. */
  change = 0;
  #applied = 0;
  readonly #waiting = new Set<() => void>();

  constructor(id: number, sockets: NetworkSockets, state: ServedState, authority: NetworkAuthority) {
    this.id = id;
    this.sockets = new Map(Object.entries(sockets) as [SocketKind, number][]);
    this.state = state;
    this.authority = authority;
  }

  /** Confirms all changes up to this one. */
  applied(change: number): void {
    this.#applied = Math.max(this.#applied, change);
    if (this.#applied < this.change) return;
    for (const done of this.#waiting) done();
  }

  /** Resolves when every change is confirmed, or the time is over. */
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

/** One process of the services, from its start to its end. It is pinged while it serves. */
class ServicesProcess implements AsyncDisposable {
  ready = false;
  readonly #startedAt = performance.now();
  #servesSince: number | undefined;
  readonly #child: ServicesChild;
  readonly #descriptors: number;
  readonly #events: ProcessEvents;
  readonly #ticking: NodeJS.Timeout;
  readonly #ended = Promise.withResolvers<void>();
  /** Networks whose end is not confirmed yet. */
  readonly #ending = new Map<number, Served>();
  #handovers = 0;
  #unanswered = 0;
  /** Watches the process while a ping is unanswered. */
  #watching: NodeJS.Timeout | undefined;
  #complaint = "";
  /** The reason why the worker killed it. */
  #reason: string | undefined;
  #closed = false;

  constructor(module: string, cgroupEntrances: readonly string[], events: ProcessEvents) {
    this.#events = events;
    const [ours, theirs] = openDescriptorPair();
    this.#descriptors = ours;
    try {
      this.#child = startConfinedProcess({
        ...{ module, args: [String(servicesUser)], maxHeapMib, descriptor: theirs, cgroupEntrances },
      });
    } catch (error) {
      closeSync(ours);
      throw error;
    } finally {
      closeSync(theirs);
    }
    this.#child.once("error", (error) => this.#end(`cannot be run: ${error.message}`));
    const { stdin, stdout, stderr } = this.#child;
    // When no descriptor is free, Node makes no pipes.
    if ((stdin as unknown) === undefined) {
      this.#closed = true;
      closeSync(ours);
      throw new SandboxError("unavailable", "cannot create pipes for the process: no file descriptor is free");
    }
    for (const stream of [stdin, stdout, stderr]) {
      stream.on("error", () => undefined);
      // The worker must be able to exit while the process runs.
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
    this.#child.once("exit", (code, signal) => this.#end(this.#reason ?? `ended with ${signal ?? `code ${code}`}`));
    this.#ticking = setInterval(() => this.#tick(), pingMs).unref();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How long it has served, in milliseconds. */
  get servedMs(): number {
    return this.#servesSince === undefined ? 0 : performance.now() - this.#servesSince;
  }

  serve(): void {
    this.#servesSince = performance.now();
  }

  /** Sends the state of a network. False when the process has to confirm others first. */
  handOver(served: Served): boolean {
    if (this.#handovers >= maxHandovers) return false;
    const kinds = [...served.sockets.keys()].filter((kind) => !served.handedOver.has(kind));
    const descriptors = kinds.map((kind) => served.sockets.get(kind)!);
    try {
      if (kinds.length > 0 && !sendDescriptors(this.#descriptors, descriptors)) return false;
    } catch (error) {
      this.kill(`cannot take sockets: ${asSandboxError(error).message}`);
      return false;
    }
    for (const kind of kinds) served.handedOver.add(kind);
    const { id, change, state } = served;
    this.#handovers += 1;
    this.#send({ kind: "network", network: id, change, ...state, sockets: kinds });
    return true;
  }

  /** Ends a network in the process. */
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

  /** Kills it and waits for its end, which closes its copies of all sockets. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.ref();
    this.kill("is not needed any more");
    await this.#ended.promise;
  }

  /** Counts ticks, not time: after a stall of the worker's own loop the answers are still unread. */
  #tick(): void {
    const { ready } = this;
    if (!ready && performance.now() - this.#startedAt > startTimeoutMs) {
      return this.kill(`has not started within ${startTimeoutMs / 1000} s`);
    }
    if (this.#servesSince === undefined) return;
    if (ready) {
      if (this.#unanswered >= maxUnanswered) return this.kill("has not answered for a second");
      this.#unanswered += 1;
      this.#send({ kind: "ping" });
      this.#watch();
    }
    this.#events.onTick();
  }

  /** Tells a process that is stopped or loops from one that waits for a processor, until the ping is answered. */
  #watch(): void {
    if (this.#watching !== undefined) return;
    let looks = 0;
    let busyBefore: number | undefined;
    this.#watching = setInterval(() => {
      const found = this.pid === undefined ? undefined : processState(this.pid);
      looks += 1;
      busyBefore ??= found?.busyMs;
      if (found === undefined || busyBefore === undefined || looks < minLooks) return;
      if (found.isStopped) this.kill("was stopped by a signal");
      else if (found.busyMs - busyBefore >= maxBusyMs) this.kill(`has computed for ${maxBusyMs} ms without an answer`);
    }, lookMs).unref();
  }

  #answered(): void {
    this.#unanswered = 0;
    clearInterval(this.#watching);
    this.#watching = undefined;
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
        return this.#answered();
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
    clearInterval(this.#watching);
    closeSync(this.#descriptors);
    for (const network of [...this.#ending.keys()]) this.#forget(network);
    this.#events.onEnd(this.#complaint === "" ? how : `${how}: ${this.#complaint}`);
    this.#ended.resolve();
  }
}
