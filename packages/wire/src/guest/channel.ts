import { create, fromBinary, toBinary, type MessageShape, type DescMessage } from "@bufbuild/protobuf";
import { asSandboxError, errorFromWire, SandboxError } from "../errors.ts";
import {
  encodeFrame,
  type Frame,
  FrameReader,
  frameTypes,
  type FrameType,
  headerBytes,
  maxDataBytes,
  maxHostDataBytes,
  maxPayloadBytes,
} from "./frame.ts";
import { FailureSchema, type Hello, HelloSchema } from "./messages_pb.js";
import { protocolVersion, type Method } from "./methods.ts";

/** Bytes of `message` and `data` frames that one side may send on a stream before the other has taken any of them. */
export const initialCredit = 256 * 1024;

/**
 * Credit of a stream with a file's content. The sender then goes on while the receiver, on a crowded host, waits for a
 * processor.
 */
export const fileCredit = 2 * 2 ** 20;

/**
 * The longest `message`, Hello and reply. Credit is renewed once half of it was taken, so a sender whose frames have all
 * been taken has at least the other half. A longer message could wait forever. Parsing one takes at most some 30 ms.
 */
export const maxMessageBytes = initialCredit / 2 - headerBytes;

/** A failure is for people to read, and ends up in replies and logs. Details are longest with a path, 4096 bytes. */
const maxFailureCharacters = 8192;

/** After this many bytes outside frames the peer is considered not to speak the protocol. */
const maxSkippedBytes = 2 * maxPayloadBytes;

/**
 * Takes bytes in the order of the calls. `write` returns undefined when more may follow at once, otherwise a promise for
 * that moment. A transport that has failed rejects.
 */
export interface Transport {
  write(bytes: Uint8Array): Promise<void> | undefined;
}

export type Incoming =
  | { readonly kind: "message"; readonly payload: Uint8Array }
  | { readonly kind: "data"; readonly tag: number; readonly payload: Uint8Array }
  | { readonly kind: "end"; readonly payload: Uint8Array };

export interface ChannelEvents {
  /** The peer greets. A host's Hello starts an epoch; a guest's answers one, or announces a new agent in epoch 0. */
  hello?(hello: Hello, epoch: number): void;
  /** Guest only: the host has opened a stream. */
  opened?(stream: Stream, method: number, request: Uint8Array): void;
  /** The peer has broken the protocol, and the channel has been closed with this error. */
  broken?(error: SandboxError): void;
}

/**
 * Many streams over one byte stream, each with its own flow control, so that a slow reader of one never blocks another.
 * Both sides use it; only the host opens streams. It knows nothing of sockets, devices or methods.
 */
export class Channel {
  readonly #transport: Transport;
  readonly #events: ChannelEvents;
  readonly #reader = new FrameReader();
  readonly #streams = new Map<number, Stream>();
  #nextStream = 1;
  #epoch = 0;
  #closed: SandboxError | undefined;

  constructor(transport: Transport, events: ChannelEvents) {
    this.#transport = transport;
    this.#events = events;
  }

  /** Takes bytes from the peer in chunks of any size, which must not be written to afterwards. */
  receive(chunk: Uint8Array): void {
    if (this.#closed !== undefined) return;
    for (const frame of this.#reader.push(chunk)) this.#dispatch(frame);
    if (this.#reader.skipped > maxSkippedBytes) {
      this.#break(new SandboxError("unavailable", "the peer of the agent channel sends bytes that are not frames"));
    }
  }

  /** Starts `epoch`: streams of an earlier epoch end with `reason`, and its late frames are discarded. */
  startEpoch(epoch: number, reason: SandboxError): void {
    this.#epoch = epoch;
    this.#failStreams(reason);
  }

  /** Whether any stream is open. */
  get busy(): boolean {
    return this.#streams.size > 0;
  }

  async sendHello(hello: { version: string; instance: bigint }): Promise<void> {
    const payload = toBinary(HelloSchema, create(HelloSchema, { protocolVersion, ...hello }));
    await this.send(frameTypes.hello, 0, 0, payload);
  }

  /** Host only: opens a stream. @throws why the channel is closed */
  open<Request extends DescMessage>(method: Method<Request>, request: MessageShape<Request>): Stream {
    if (this.#closed !== undefined) throw this.#closed;
    const stream = new Stream(this, this.#nextStream, true);
    this.#nextStream = this.#nextStream === 0xffff_ffff ? 1 : this.#nextStream + 1;
    this.#streams.set(stream.id, stream);
    this.post(frameTypes.open, stream.id, method.id, toBinary(method.request, request));
    return stream;
  }

  /** Ends every stream with `error`; nothing is sent or received after that. Closing twice does nothing. */
  close(error: SandboxError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    this.#failStreams(error);
  }

  /** For {@link Stream}: sends a frame; the result is that of {@link Transport}. */
  send(type: FrameType, stream: number, tag: number, payload: Uint8Array): Promise<void> | undefined {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    if (payload.length > maxPayloadBytes) return Promise.reject(tooLong(payload.length));
    const written = this.#transport.write(encodeFrame({ stream, epoch: this.#epoch, type, tag, payload }));
    return written?.catch((cause: unknown) => {
      this.close(new SandboxError("unavailable", "the agent channel is closed", { cause }));
      throw this.#closed;
    });
  }

  /**
   * For {@link Stream}: sends a frame without waiting. A failing transport closes the channel, which ends the streams.
   */
  post(type: FrameType, stream: number, tag: number, payload: Uint8Array): void {
    this.send(type, stream, tag, payload)?.catch(() => undefined);
  }

  /** For {@link Stream}: it has ended or was given up. */
  forget(stream: number): void {
    this.#streams.delete(stream);
  }

  #dispatch(frame: Frame): void {
    if (this.#closed !== undefined) return;
    if (frame.type === frameTypes.hello) {
      const hello = frame.payload.length > maxMessageBytes ? undefined : parse(HelloSchema, frame.payload);
      if (hello === undefined) return this.#break(notUnderstood());
      this.#events.hello?.(hello, frame.epoch);
      return;
    }
    if (frame.epoch !== this.#epoch) return;
    if (frame.type === frameTypes.open) {
      if (this.#events.opened === undefined || this.#streams.has(frame.stream)) return this.#break(notUnderstood());
      const stream = new Stream(this, frame.stream, false);
      this.#streams.set(frame.stream, stream);
      this.#events.opened(stream, frame.tag, frame.payload);
      return;
    }
    // The peer may still send on a stream that was given up here.
    const error = this.#streams.get(frame.stream)?.accept(frame);
    if (error !== undefined) this.#break(error);
  }

  #break(error: SandboxError): void {
    this.close(error);
    this.#events.broken?.(error);
  }

  #failStreams(error: SandboxError): void {
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) stream.fail(error);
  }
}

/** One call. {@link next} takes what comes in, and taking it lets the peer send more. */
export class Stream {
  readonly id: number;
  readonly #channel: Channel;
  readonly #opener: boolean;
  readonly #incoming: Incoming[] = [];
  #waiting: { resolve(value: Incoming): void; reject(error: unknown): void } | undefined;
  #failure: SandboxError | undefined;
  /** The opener has received the answer. */
  #ended = false;
  #givenUp = false;
  /** Created on demand: most streams end without one. */
  #aborted: AbortController | undefined;
  /** Stops listening to the signal of {@link resetOn}. */
  #unlisten: (() => void) | undefined;
  #credit = initialCredit;
  #creditWaiters: (() => void)[] = [];
  /** Number of pending calls that send several frames. */
  #sending = 0;
  /** Bytes that the peer may still send, and bytes taken that have not been granted again. */
  #peerCredit = initialCredit;
  #taken = 0;

  constructor(channel: Channel, id: number, opener: boolean) {
    this.#channel = channel;
    this.id = id;
    this.#opener = opener;
  }

  /** Aborts when the peer gives the stream up, this side resets it, or the channel closes. */
  get signal(): AbortSignal {
    if (this.#aborted === undefined) {
      this.#aborted = new AbortController();
      if (this.#failure !== undefined) this.#aborted.abort(this.#failure);
    }
    return this.#aborted.signal;
  }

  /** Whether this side has {@link reset} the stream before its end. */
  get givenUp(): boolean {
    return this.#givenUp;
  }

  /** The next message, data or the end. @throws the peer's failure, or why the channel ended */
  async next(): Promise<Incoming> {
    const first = this.#incoming.shift();
    if (first !== undefined) {
      this.#grant(first);
      return first;
    }
    if (this.#failure !== undefined) throw this.#failure;
    const { promise, resolve, reject } = Promise.withResolvers<Incoming>();
    this.#waiting = { resolve, reject };
    const incoming = await promise;
    this.#grant(incoming);
    return incoming;
  }

  /** Lets the peer send up to `credit` bytes before any of them was taken, instead of {@link initialCredit}. Call it once. */
  raiseCredit(credit: number): void {
    const more = credit - initialCredit;
    this.#peerCredit += more;
    this.#postCredit(more);
  }

  /** What {@link next} returns, and everything that has arrived behind it. The end is the last one. */
  async nextAll(): Promise<readonly Incoming[]> {
    const all = [await this.next()];
    for (let more = this.#incoming.shift(); more !== undefined; more = this.#incoming.shift()) {
      this.#grant(more);
      all.push(more);
    }
    return all;
  }

  async sendMessage<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Promise<void> {
    const payload = toBinary(schema, message);
    if (payload.length > maxMessageBytes) throw tooLong(payload.length);
    await this.#takeCredit(costOf(payload));
    await this.#channel.send(frameTypes.message, this.id, 0, payload);
  }

  /** Sends any number of bytes; settles when the peer's credit and the line have taken them all. */
  async sendData(tag: number, bytes: Uint8Array): Promise<void> {
    await this.#sendParts(tag, bytes);
  }

  /**
   * Sends like {@link sendData}, but returns undefined when everything was taken at once. The bytes may be overwritten when
   * it returns.
   */
  pushData(tag: number, bytes: Uint8Array): Promise<void> | undefined {
    const max = this.#maxData;
    for (let at = 0; at < bytes.length; at += max) {
      const part = bytes.subarray(at, at + max);
      const isNext = this.#sending === 0 && this.#creditWaiters.length === 0;
      if (!isNext || this.#credit < costOf(part) || this.#refusal !== undefined) return this.#pushRest(tag, bytes, at);
      this.#credit -= costOf(part);
      const written = this.#channel.send(frameTypes.data, this.id, tag, part);
      if (written === undefined) continue;
      if (at + part.length === bytes.length) return written;
      // Sending the rest rejects with the same failure.
      written.catch(() => undefined);
      return this.#pushRest(tag, bytes, at + part.length);
    }
    return undefined;
  }

  /** Ends the input of a stream of the host. */
  async end(): Promise<void> {
    await this.#channel.send(frameTypes.end, this.id, 0, new Uint8Array(0));
  }

  /** Guest: ends the stream with the answer. */
  async reply<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Promise<void> {
    this.#channel.forget(this.id);
    await this.#channel.send(frameTypes.end, this.id, 0, toBinary(schema, message));
  }

  /** Guest: ends the stream with a failure. */
  async refuse(error: unknown): Promise<void> {
    const { code, message, details } = asSandboxError(error);
    const failure = create(FailureSchema, {
      code,
      message,
      detailsJson: details === undefined ? "" : JSON.stringify(details),
    });
    this.#channel.forget(this.id);
    await this.#channel.send(frameTypes.failure, this.id, 0, toBinary(FailureSchema, failure));
  }

  /** Host: gives the stream up, and the agent stops its work for it. After the end it does nothing. */
  reset(reason: SandboxError): void {
    if (this.#failure !== undefined || this.#ended) return;
    this.#givenUp = true;
    this.#channel.forget(this.id);
    this.fail(reason);
    // Nothing waits for the frame: a closed channel has ended the agent's side too.
    this.#channel.post(frameTypes.reset, this.id, 0, new Uint8Array(0));
  }

  /**
   * Host: {@link reset}s the stream when `signal` aborts before the end. The end removes the listener: a signal combined
   * by `AbortSignal.any` is never collected while it has one.
   */
  resetOn(signal: AbortSignal, reason: (signal: AbortSignal) => SandboxError): void {
    const onAbort = (): void => this.reset(reason(signal));
    if (signal.aborted) return onAbort();
    if (this.#failure !== undefined || this.#ended) return;
    signal.addEventListener("abort", onAbort, { once: true });
    this.#unlisten = () => signal.removeEventListener("abort", onAbort);
  }

  /** For {@link Channel}: ends this side. Frames received before can still be taken. */
  fail(error: SandboxError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#unlisten?.();
    this.#waiting?.reject(error);
    this.#waiting = undefined;
    this.#wakeSenders();
    this.#aborted?.abort(error);
  }

  /** For {@link Channel}: takes a frame of this stream. Returns an error when the frame breaks the protocol. */
  accept(frame: Frame): SandboxError | undefined {
    switch (frame.type) {
      case frameTypes.message:
        if (frame.payload.length > maxMessageBytes) return notUnderstood();
        return this.#deliver({ kind: "message", payload: frame.payload });
      case frameTypes.data:
        return this.#deliver({ kind: "data", tag: frame.tag, payload: frame.payload });
      case frameTypes.end:
        if (this.#opener) {
          if (frame.payload.length > maxMessageBytes) return notUnderstood();
          this.#channel.forget(this.id);
          this.#ended = true;
          this.#unlisten?.();
          this.#wakeSenders();
        }
        return this.#deliver({ kind: "end", payload: frame.payload });
      case frameTypes.failure: {
        this.#channel.forget(this.id);
        const failure = parse(FailureSchema, frame.payload);
        if (failure === undefined) return notUnderstood();
        const message = failure.message.slice(0, maxFailureCharacters);
        this.fail(errorFromWire({ code: failure.code, message, ...detailsOf(failure.detailsJson) }));
        return undefined;
      }
      case frameTypes.reset:
        this.#channel.forget(this.id);
        this.fail(new SandboxError("canceled", "the caller disconnected"));
        return undefined;
      case frameTypes.credit: {
        if (frame.payload.length !== 4) return notUnderstood();
        this.#credit += new DataView(frame.payload.buffer, frame.payload.byteOffset).getUint32(0, true);
        this.#wakeSenders();
        return undefined;
      }
      case frameTypes.hello:
      case frameTypes.open:
        return notUnderstood();
    }
  }

  #deliver(incoming: Incoming): SandboxError | undefined {
    if (incoming.kind !== "end") {
      this.#peerCredit -= costOf(incoming.payload);
      if (this.#peerCredit < 0) {
        return new SandboxError("unavailable", "the peer of the agent channel exceeds its credit");
      }
    }
    if (this.#waiting === undefined) {
      this.#incoming.push({ ...incoming, payload: ofItsOwn(incoming.payload) });
    } else {
      this.#waiting.resolve(incoming);
      this.#waiting = undefined;
    }
    return undefined;
  }

  #grant(incoming: Incoming): void {
    if (incoming.kind === "end") return;
    this.#taken += costOf(incoming.payload);
    if (this.#taken < initialCredit / 2 || this.#failure !== undefined) return;
    this.#peerCredit += this.#taken;
    this.#postCredit(this.#taken);
    this.#taken = 0;
  }

  #postCredit(bytes: number): void {
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setUint32(0, bytes, true);
    this.#channel.post(frameTypes.credit, this.id, 0, payload);
  }

  get #maxData(): number {
    return this.#opener ? maxHostDataBytes : maxDataBytes;
  }

  async #pushRest(tag: number, bytes: Uint8Array, from: number): Promise<void> {
    await this.#sendParts(tag, new Uint8Array(bytes.subarray(from)));
  }

  async #sendParts(tag: number, bytes: Uint8Array): Promise<void> {
    this.#sending += 1;
    try {
      const max = this.#maxData;
      for (let at = 0; at < bytes.length; at += max) {
        const part = bytes.subarray(at, at + max);
        await this.#takeCredit(costOf(part));
        await this.#channel.send(frameTypes.data, this.id, tag, part);
      }
    } finally {
      this.#sending -= 1;
    }
  }

  /** The error of further sends, if any. */
  get #refusal(): SandboxError | undefined {
    if (this.#failure !== undefined || !this.#ended) return this.#failure;
    return new SandboxError("canceled", "the other side takes no more input");
  }

  async #takeCredit(bytes: number): Promise<void> {
    // First come, first served: waiters wake in order and check again.
    while (this.#failure === undefined && !this.#ended && this.#credit < bytes) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#creditWaiters.push(resolve);
      await promise;
    }
    const refusal = this.#refusal;
    if (refusal !== undefined) throw refusal;
    this.#credit -= bytes;
  }

  #wakeSenders(): void {
    const waiters = this.#creditWaiters;
    this.#creditWaiters = [];
    for (const wake of waiters) wake();
  }
}

/** The credit that a frame uses. It includes the header, so that empty frames cannot pile up without a bound. */
function costOf(payload: Uint8Array): number {
  return headerBytes + payload.length;
}

/** Copies a payload that is a small part of its chunk, so that a waiting payload does not keep the whole chunk alive. */
function ofItsOwn(payload: Uint8Array): Uint8Array {
  return payload.length * 2 < payload.buffer.byteLength ? new Uint8Array(payload) : payload;
}

/**
 * Parses a message from the other side of a trust boundary; undefined when the bytes are not such a message. Unknown
 * fields are skipped: an object for each of them would take seconds and 100 bytes for every byte of a message.
 */
export function parse<Desc extends DescMessage>(schema: Desc, bytes: Uint8Array): MessageShape<Desc> | undefined {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch {
    return undefined;
  }
}

function tooLong(bytes: number): SandboxError {
  return new SandboxError("invalid_argument", `${bytes} bytes do not fit into one message`);
}

function notUnderstood(): SandboxError {
  return new SandboxError("unavailable", "the peer of the agent channel does not speak its protocol");
}

function detailsOf(json: string): { details?: unknown } {
  if (json === "" || json.length > maxFailureCharacters) return {};
  try {
    return { details: JSON.parse(json) as unknown };
  } catch {
    return {};
  }
}
