import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import type { Socket } from "node:net";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import type { Hello } from "@opensandbox/wire/guest/messages_pb.js";
import { type Method, methods } from "@opensandbox/wire/guest/methods.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { type AgentTransport, newEpoch } from "#host/agent-transport.ts";
import { GuestLine } from "./guest-line.ts";

/** How long a guest may stay silent while a call waits for it, in milliseconds. */
export interface SilenceLimits {
  /** Silence after which the guest is pinged; every agent answers a ping. */
  readonly pingAfterMs: number;
  /** Further silence after which the connection is given up. */
  readonly giveUpAfterMs: number;
}

/** A restored guest under emulation, on a crowded host, has taken ten seconds for its first answer. */
const defaultSilenceLimits: SilenceLimits = { pingAfterMs: 20_000, giveUpAfterMs: 60_000 };

/** Each restart of an agent costs this process an epoch; no working agent restarts this often. */
const restartLimit = { count: 100, withinMs: 10_000 };

export interface GuestClientOptions {
  readonly silenceLimits?: SilenceLimits;
  /**
   * Receives failures that no caller waits for: a guest that breaks the protocol, a command that could not be killed.
   */
  readonly report?: (message: string, error: unknown) => void;
}

/**
 * How long attempts to connect to an agent go on after a call has begun them, in milliseconds: longer than a guest may
 * take to boot. The callers have deadlines of their own.
 */
const connectTimeoutMs = 300_000;

/** One connection to an agent. */
interface Connection {
  readonly socket: Socket;
  readonly line: GuestLine;
  readonly channel: Channel;
}

/**
 * The host's end of an agent channel. An agent that starts, for the first time or again, announces itself and is
 * answered with a new epoch; every stream of the old one fails with `unavailable`. The same happens when the agent stays
 * silent for too long: a command may be silent forever, its agent may not. An agent that breaks the protocol loses its
 * connection, and nothing else is affected.
 *
 * A connection that ends at the hypervisor is opened at once and lasts as long as the VM. One that ends at the agent is
 * opened by the first call, and by the first call after the guest has reset it.
 */
export class GuestClient implements Disposable {
  readonly #transport: AgentTransport;
  #connection: Connection | undefined;
  #isConnecting = false;
  /** Why nothing can be called any more. */
  #closed: SandboxError | undefined;
  readonly #closing = new AbortController();
  #epoch = 0;
  #ready = Promise.withResolvers<Hello>();
  /** Whether the agent has greeted in the present epoch. */
  #isGreeted = false;
  readonly #report: (message: string, error: unknown) => void;
  #restarts = { since: 0, count: 0 };
  /** The epoch in which the guest's disks were frozen. */
  #frozenIn: number | undefined;
  readonly #silenceLimits: SilenceLimits;
  #heardAt = performance.now();
  /** Checks for silence while a stream is open. */
  #watch: NodeJS.Timeout | undefined;
  #asking = false;

  private constructor(
    transport: AgentTransport,
    { silenceLimits = defaultSilenceLimits, report = () => undefined }: GuestClientOptions,
  ) {
    this.#transport = transport;
    this.#silenceLimits = silenceLimits;
    this.#report = report;
    this.#ready.promise.catch(() => undefined);
  }

  /** The client of a machine's agent. The agent may still have to start; see {@link ready}. */
  static async connect(transport: AgentTransport, options: GuestClientOptions = {}): Promise<GuestClient> {
    const client = new GuestClient(transport, options);
    if (transport.endsAt === "hypervisor") client.#attach(await transport.open(client.#closing.signal));
    return client;
  }

  /** Resolves with the agent's greeting in the present epoch. */
  async ready(signal: AbortSignal): Promise<Hello> {
    return await orAborted(this.#greeting(), signal, canceled);
  }

  /** Sends one message and returns the one that answers it. */
  async call<Request extends DescMessage, Reply extends DescMessage>(
    method: Method<Request, Reply>,
    request: MessageInitShape<Request>,
    signal: AbortSignal,
  ): Promise<MessageShape<Reply>> {
    const stream = await this.open(method, request, signal);
    const incoming = await stream.next();
    return replyOf(method, incoming.kind === "end" ? incoming.payload : undefined);
  }

  /** Opens a stream that is given up when `signal` aborts. */
  async open<Request extends DescMessage>(
    method: Method<Request>,
    request: MessageInitShape<Request>,
    signal: AbortSignal,
  ): Promise<Stream> {
    // A deadline for each call would be a timer for each command.
    if (signal.aborted) throw canceled(signal);
    if (this.#closed !== undefined) throw this.#closed;
    let connection = this.#isGreeted ? this.#connection : undefined;
    while (connection === undefined || connection.line.isFull) {
      const { line } = connection ?? {};
      await this.#withinSilenceLimits(() => (line === undefined ? this.#greeting() : line.drained()), signal);
      connection = this.#connection;
    }
    this.#listen();
    const stream = connection.channel.open(method, create(method.request, request));
    stream.resetOn(signal, canceled);
    return stream;
  }

  /**
   * Freezes the guest's file systems and sends nothing from then on: a copy of the guest would wait for the rest of a frame
   * that only this guest gets. Every path must end with {@link thaw}.
   */
  async freeze(signal: AbortSignal): Promise<void> {
    const stream = await this.open(methods.freeze, {}, signal);
    this.#connection?.line.hold();
    const incoming = await stream.next();
    const { mountpoints } = replyOf(methods.freeze, incoming.kind === "end" ? incoming.payload : undefined);
    if (mountpoints.length === 0) throw new SandboxError("unavailable", "the guest has frozen no file system");
    this.#frozenIn = this.#epoch;
  }

  /** Whether the agent that froze the file systems still runs: a restarted agent thaws them. */
  get frozen(): boolean {
    return this.#frozenIn === this.#epoch;
  }

  /** Sends again, and thaws the guest's file systems. */
  async thaw(signal: AbortSignal): Promise<void> {
    this.#connection?.line.release();
    this.#frozenIn = undefined;
    try {
      await this.call(methods.thaw, {}, signal);
    } catch (error) {
      const mayBeReset = this.#transport.endsAt === "agent" && asSandboxError(error).code === "unavailable";
      if (!mayBeReset || signal.aborted) throw error;
      // A capture can make the guest reset its connection. Thawing twice does no harm.
      await this.call(methods.thaw, {}, signal);
    }
  }

  /** Resolves when the agent answers. */
  async ping(signal: AbortSignal): Promise<void> {
    await this.call(methods.ping, {}, signal);
  }

  [Symbol.dispose](): void {
    this.#close(ended());
  }

  /** For {@link guestSessions}: a command that was to be killed may run on. */
  reportLeftover(sessionId: string, error: unknown): void {
    const { code } = asSandboxError(error);
    // A session that has ended is gone, and a guest that is gone has taken its commands along.
    if (code === "not_found" || code === "unavailable") return;
    this.#report(`session ${sessionId} may run on without its caller`, error);
  }

  /** Waits until a guest reads or has greeted, for at most the time that a guest may be silent. */
  async #withinSilenceLimits(wait: () => Promise<unknown>, signal: AbortSignal): Promise<void> {
    const { pingAfterMs, giveUpAfterMs } = this.#silenceLimits;
    const deadline = AbortSignal.timeout(pingAfterMs + giveUpAfterMs);
    try {
      await orAborted(wait(), AbortSignal.any([signal, deadline]), canceled);
    } catch (error) {
      if (deadline.aborted && !signal.aborted) throw silent(pingAfterMs + giveUpAfterMs);
      throw asSandboxError(error).code === "internal" ? gone(error) : error;
    }
  }

  #listen(): void {
    if (this.#watch !== undefined) return;
    this.#heardAt = performance.now();
    const { pingAfterMs, giveUpAfterMs } = this.#silenceLimits;
    this.#watch = setInterval(() => this.#lookForSilence(), Math.min(pingAfterMs, giveUpAfterMs) / 4).unref();
  }

  #lookForSilence(): void {
    const { channel, line } = this.#connection ?? {};
    if (channel === undefined || line === undefined || !channel.busy) {
      clearInterval(this.#watch);
      this.#watch = undefined;
      return;
    }
    // A guest that is being captured is silent.
    if (line.isHeld) this.#heardAt = performance.now();
    const { pingAfterMs, giveUpAfterMs } = this.#silenceLimits;
    const silentMs = performance.now() - this.#heardAt;
    if (silentMs > pingAfterMs + giveUpAfterMs) {
      this.#startEpoch(silent(pingAfterMs + giveUpAfterMs));
      // The guest may have forgotten the connection; the next call makes another one.
      if (this.#transport.endsAt === "agent") this.#connection?.socket.destroy();
    } else if (silentMs > pingAfterMs && !this.#asking) this.#ask(channel);
  }

  /** Any answer counts, since every byte from the guest ends the silence. */
  #ask(channel: Channel): void {
    this.#asking = true;
    channel
      .open(methods.ping, create(methods.ping.request))
      .next()
      .catch(() => undefined)
      .finally(() => {
        this.#asking = false;
      });
  }

  #onHello(hello: Hello, epoch: number): void {
    if (epoch === 0) this.#onRestart();
    else if (epoch === this.#epoch) {
      this.#isGreeted = true;
      this.#ready.resolve(hello);
    }
  }

  /** The agent's greeting, on a new connection where there is none and the transport makes one. */
  async #greeting(): Promise<Hello> {
    if (this.#closed !== undefined) throw this.#closed;
    if (this.#connection === undefined && !this.#isConnecting) void this.#connect();
    return await this.#ready.promise;
  }

  /** Never rejects: a failure goes to those that wait for the greeting. */
  async #connect(): Promise<void> {
    this.#isConnecting = true;
    try {
      const deadline = AbortSignal.timeout(connectTimeoutMs);
      const signal = AbortSignal.any([this.#closing.signal, deadline]);
      this.#attach(await this.#transport.open(signal, this.#report));
    } catch (cause) {
      if (this.#closed !== undefined) return;
      this.#ready.reject(new SandboxError("unavailable", "the guest agent accepts no connection", { cause }));
      this.#awaitGreeting();
    } finally {
      this.#isConnecting = false;
    }
  }

  #attach(socket: Socket): void {
    if (this.#closed !== undefined) {
      socket.destroy();
      return;
    }
    const line = new GuestLine(socket, (error) => this.#giveUp(new SandboxError("unavailable", error.message)));
    const channel: Channel = new Channel(line, {
      hello: (hello, epoch) => this.#onHello(hello, epoch),
      broken: (error) => this.#giveUp(error),
    });
    this.#connection = { socket, line, channel };
    socket.on("data", (chunk: Buffer) => this.#onData(channel, chunk));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#onDisconnected(channel));
    this.#startEpoch();
    socket.resume();
  }

  #onDisconnected(channel: Channel): void {
    if (this.#transport.endsAt === "hypervisor") {
      this.#close(ended());
      return;
    }
    channel.close(
      new SandboxError("unavailable", "the guest has reset its connection; how the command ended is unknown"),
    );
    if (this.#connection?.channel !== channel) return;
    this.#connection = undefined;
    this.#epoch = newEpoch();
    this.#awaitGreeting();
  }

  /** Callers wait for a greeting that has yet to come. */
  #awaitGreeting(): void {
    this.#isGreeted = false;
    this.#ready = Promise.withResolvers<Hello>();
    this.#ready.promise.catch(() => undefined);
  }

  /** An exception that a guest's bytes cause must not leave its connection. */
  #onData(channel: Channel, chunk: Buffer): void {
    this.#heardAt = performance.now();
    try {
      channel.receive(chunk);
    } catch (error) {
      this.#giveUp(
        new SandboxError("unavailable", "the guest agent sent bytes that cannot be handled", { cause: error }),
      );
    }
  }

  #onRestart(): void {
    const now = performance.now();
    if (now - this.#restarts.since > restartLimit.withinMs) this.#restarts = { since: now, count: 0 };
    this.#restarts.count += 1;
    if (this.#restarts.count <= restartLimit.count) this.#startEpoch();
    else this.#giveUp(new SandboxError("unavailable", "the guest agent restarts repeatedly"));
  }

  #startEpoch(
    reason: SandboxError = new SandboxError(
      "unavailable",
      "the guest agent was restarted; how the command ended is unknown",
    ),
  ): void {
    this.#epoch = newEpoch();
    // A caller that waited for the epoch that never came waits for the new one.
    if (this.#isGreeted) this.#awaitGreeting();
    const { channel } = this.#connection ?? {};
    channel?.startEpoch(this.#epoch, reason);
    // A socket that fails reports that by its own event.
    channel?.sendHello({ version: "", instance: 0n }).catch(() => undefined);
  }

  #giveUp(error: SandboxError): void {
    if (this.#closed === undefined) this.#report("the connection to a guest agent was given up", error);
    this.#close(error);
  }

  #close(error: SandboxError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    clearInterval(this.#watch);
    this.#closing.abort(error);
    this.#connection?.channel.close(error);
    this.#ready.reject(error);
    this.#connection?.socket.destroy();
  }
}

function silent(milliseconds: number): SandboxError {
  const message =
    `the guest has said nothing for ${Math.round(milliseconds / 1000)} s; how its commands ended is unknown: ` +
    "power-cycle the sandbox if this persists";
  return new SandboxError("unavailable", message);
}

/** The message of a final `end`. @throws unavailable for an invalid one */
export function replyOf<Reply extends DescMessage>(
  method: Method<DescMessage, Reply>,
  payload: Uint8Array | undefined,
): MessageShape<Reply> {
  const reply = payload === undefined ? undefined : parse(method.reply, payload);
  if (reply === undefined) throw new SandboxError("unavailable", "the guest agent sent an invalid reply");
  return reply;
}

/** Gives up a stream that carries other messages than its method has. Returns the error to throw. */
export function invalidAnswer(stream: Stream): SandboxError {
  const error = new SandboxError("unavailable", "the guest agent sent an invalid reply");
  stream.reset(error);
  return error;
}

/** Input for a command or a server that has ended is dropped; the sender could not know of the end. */
export async function untilEnd(sending: Promise<void>): Promise<void> {
  try {
    await sending;
  } catch (error) {
    if (asSandboxError(error).code !== "canceled") throw error;
  }
}

function gone(cause: unknown): SandboxError {
  return new SandboxError("unavailable", "the machine has ended", { cause });
}

function ended(): SandboxError {
  return new SandboxError("unavailable", "the machine has ended");
}

/** An abort by a deadline is `timed_out`; every other abort is `canceled`. */
function canceled(signal: AbortSignal): SandboxError {
  const cause: unknown = signal.reason;
  const timedOut = cause instanceof DOMException && cause.name === "TimeoutError";
  return timedOut
    ? new SandboxError("timed_out", "the guest agent did not answer in time", { cause })
    : new SandboxError("canceled", "canceled", { cause });
}
