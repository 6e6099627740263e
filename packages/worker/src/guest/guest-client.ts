import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { connect, type Socket } from "node:net";
import { randomBytes } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import type { Hello } from "@opensandbox/wire/guest/messages_pb.js";
import { type Method, methods } from "@opensandbox/wire/guest/methods.ts";

/** How long a guest may say nothing while something is asked of it, in milliseconds. */
export interface Patience {
  /** Then it is asked whether it is there, which an agent always answers. */
  readonly askMs: number;
  /** So long after that it is given up. */
  readonly leaveMs: number;
}

/** Under emulation, on a crowded host, a restored guest has taken ten seconds for its first answer. */
const patient: Patience = { askMs: 20_000, leaveMs: 60_000 };

/**
 * The host's end of an agent channel. An agent that starts, for the first time or again, announces itself and is
 * answered with a new epoch; whatever was under way in the old one fails with `unavailable`. So it does when the guest
 * stands still, which nobody else would notice: a command may be silent for as long as it likes, its agent may not.
 */
export class GuestClient implements Disposable {
  readonly #socket: Socket;
  readonly #channel: Channel;
  #epoch = 0;
  #ready = Promise.withResolvers<Hello>();
  /** Whether the agent has greeted in the present epoch. */
  #isGreeted = false;
  /** While it is set nothing is sent: whoever is in the middle of a frame would be captured so. */
  #held: PromiseWithResolvers<void> | undefined;
  /** The epoch in which the guest's disks were frozen. */
  #frozenIn = 0;
  readonly #patience: Patience;
  #heardAt = performance.now();
  /** Looks for silence, while anybody waits. */
  #watch: NodeJS.Timeout | undefined;
  #asking = false;

  constructor(socket: Socket, patience: Patience = patient) {
    this.#socket = socket;
    this.#patience = patience;
    this.#ready.promise.catch(() => undefined);
    this.#channel = new Channel(
      {
        write: async (bytes) => {
          // In order: what waits here is woken in the order in which it came.
          while (this.#held !== undefined) await this.#held.promise;
          await writeTo(socket, bytes);
        },
      },
      {
        hello: (hello, epoch) => this.#onHello(hello, epoch),
        broken: (error) => this.#close(error),
      },
    );
    socket.on("data", (chunk: Buffer) => {
      this.#heardAt = performance.now();
      this.#channel.receive(chunk);
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#close(new SandboxError("unavailable", "the machine has ended")));
    this.#startEpoch();
  }

  /** Connects to a machine's agent socket. The agent need not be there yet; see {@link ready}. */
  static async connect(path: string, patience?: Patience): Promise<GuestClient> {
    const socket = connect(path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once("connect", resolve);
    socket.once("error", reject);
    try {
      await promise;
    } catch (cause) {
      throw new SandboxError("unavailable", "the machine's agent socket cannot be reached", { cause });
    }
    socket.off("error", reject);
    return new GuestClient(socket, patience);
  }

  /** The agent's greeting in the present epoch. */
  async ready(signal: AbortSignal): Promise<Hello> {
    return await untilAborted(this.#ready.promise, signal);
  }

  /** A call that takes one message and gives one. */
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
    await (this.#isGreeted ? this.ready(signal) : this.#greeted(signal));
    this.#listen();
    const stream = this.#channel.open(method, create(method.request, request));
    const onAbort = (): void => stream.reset(canceled(signal));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true, signal: stream.signal });
    return stream;
  }

  /**
   * Makes the guest hold its disks still, and sends nothing from then on: a copy of the guest must not wait for the rest
   * of a frame that only this guest gets. Ends with {@link goOn}, which thaws, on every path.
   */
  async freeze(signal: AbortSignal): Promise<void> {
    const stream = await this.open(methods.freeze, {}, signal);
    this.#held ??= Promise.withResolvers();
    const incoming = await stream.next();
    const { mountpoints } = replyOf(methods.freeze, incoming.kind === "end" ? incoming.payload : undefined);
    if (mountpoints.length === 0) throw new SandboxError("unavailable", "the guest holds no disk still");
    this.#frozenIn = this.#epoch;
  }

  /** Whether the agent that has frozen the disks is still there: another one has let them go. */
  get frozen(): boolean {
    return this.#frozenIn === this.#epoch;
  }

  /** Lets the guest write again. */
  async goOn(signal: AbortSignal): Promise<void> {
    this.#release();
    this.#frozenIn = 0;
    await this.call(methods.thaw, {}, signal);
  }

  /** Whether the agent answers. */
  async ping(signal: AbortSignal): Promise<void> {
    await this.call(methods.ping, {}, signal);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  /** One that has said nothing since it was left says so, too, to those who come later. */
  async #greeted(signal: AbortSignal): Promise<void> {
    const { askMs, leaveMs } = this.#patience;
    const deadline = AbortSignal.timeout(askMs + leaveMs);
    try {
      await this.ready(AbortSignal.any([signal, deadline]));
    } catch (error) {
      throw deadline.aborted && !signal.aborted ? silent(askMs + leaveMs) : error;
    }
  }

  #listen(): void {
    if (this.#watch !== undefined) return;
    this.#heardAt = performance.now();
    const { askMs, leaveMs } = this.#patience;
    this.#watch = setInterval(() => this.#lookForSilence(), Math.min(askMs, leaveMs) / 4).unref();
  }

  #lookForSilence(): void {
    if (!this.#channel.busy) {
      clearInterval(this.#watch);
      this.#watch = undefined;
      return;
    }
    // Nothing is asked of a guest that is being captured.
    if (this.#held !== undefined) this.#heardAt = performance.now();
    const { askMs, leaveMs } = this.#patience;
    const silentMs = performance.now() - this.#heardAt;
    if (silentMs > askMs + leaveMs) this.#startEpoch(silent(askMs + leaveMs));
    else if (silentMs > askMs && !this.#asking) this.#ask();
  }

  /** The answer is heard like everything else. */
  #ask(): void {
    this.#asking = true;
    this.#channel
      .open(methods.ping, create(methods.ping.request))
      .next()
      .catch(() => undefined)
      .finally(() => {
        this.#asking = false;
      });
  }

  #onHello(hello: Hello, epoch: number): void {
    if (epoch === 0) this.#startEpoch();
    else if (epoch === this.#epoch) {
      this.#isGreeted = true;
      this.#ready.resolve(hello);
    }
  }

  #release(): void {
    const held = this.#held;
    this.#held = undefined;
    held?.resolve();
  }

  #startEpoch(
    reason: SandboxError = new SandboxError(
      "unavailable",
      "the guest agent was restarted; how the command ended is unknown",
    ),
  ): void {
    // Who waits for an epoch that never came waits for the new one: only a settled promise is replaced.
    this.#epoch = randomBytes(4).readUInt32LE() | 1;
    this.#epoch >>>= 0;
    this.#isGreeted = false;
    const waiting = this.#ready;
    this.#ready = Promise.withResolvers<Hello>();
    this.#ready.promise.then(waiting.resolve, waiting.reject);
    this.#channel.startEpoch(this.#epoch, reason);
    // A socket that fails says so by its own event.
    this.#channel.sendHello({ version: "", instance: 0n }).catch(() => undefined);
  }

  #close(error: SandboxError): void {
    this.#release();
    clearInterval(this.#watch);
    this.#channel.close(error);
    this.#ready.reject(error);
    this.#socket.destroy();
  }
}

function silent(milliseconds: number): SandboxError {
  const message =
    `the guest has said nothing for ${Math.round(milliseconds / 1000)} s; how its commands ended is unknown: ` +
    "power-cycle the sandbox if it stays so";
  return new SandboxError("unavailable", message);
}

/** The message of a final `end`, or `unavailable` for an answer that is none. */
export function replyOf<Reply extends DescMessage>(
  method: Method<DescMessage, Reply>,
  payload: Uint8Array | undefined,
): MessageShape<Reply> {
  const reply = payload === undefined ? undefined : parse(method.reply, payload);
  if (reply === undefined) throw new SandboxError("unavailable", "the guest agent gave no valid answer");
  return reply;
}

async function writeTo(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (socket.destroyed) throw new Error("the socket is closed");
  if (socket.write(bytes)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onClose = (): void => reject(new Error("the socket was closed"));
  socket.once("drain", resolve);
  socket.once("close", onClose);
  try {
    await promise;
  } finally {
    socket.off("drain", resolve);
    socket.off("close", onClose);
  }
}

async function untilAborted<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value> {
  if (signal.aborted) throw canceled(signal);
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(canceled(signal));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** An abort by a deadline is a time-out, any other is the caller's wish. */
function canceled(signal: AbortSignal): SandboxError {
  const cause: unknown = signal.reason;
  const timedOut = cause instanceof DOMException && cause.name === "TimeoutError";
  return timedOut
    ? new SandboxError("timed_out", "the guest agent did not answer in time", { cause })
    : new SandboxError("canceled", "canceled", { cause });
}
