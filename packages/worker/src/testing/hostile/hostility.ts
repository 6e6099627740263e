import type { DescMessage } from "@bufbuild/protobuf";
import { initialCredit, maxMessageBytes, parse } from "@opensandbox/wire/guest/channel.ts";
import {
  encodeFrame,
  type Frame,
  frameTypes,
  type FrameType,
  headerBytes,
  maxDataBytes,
  maxPayloadBytes,
} from "@opensandbox/wire/guest/frame.ts";
import {
  EmptySchema,
  FailureSchema,
  FileStatSchema,
  FileStatsSchema,
  HelloSchema,
  SessionEventSchema,
  SessionInfosSchema,
  WatchEventsSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Random } from "./random.ts";
import { randomMessage, unknownFields } from "./random-message.ts";

/**
 * `lying`: every frame is one that the protocol allows, so that the connection lives and the content reaches every
 * caller. `breaking`: also frames that no agent sends, which end the connection.
 */
export type Manner = "lying" | "breaking";

/** The line to the worker. */
export interface Line {
  send(bytes: Uint8Array): void;
  /** Whether the worker takes more now. A flood waits for that. */
  readonly isFree: boolean;
  /** Cuts the connection. */
  cut(): void;
  /** Stops or continues reading what the worker sends. */
  pause(paused: boolean): void;
}

/** The messages that a method sends before its reply. */
const streamed = new Map<number, DescMessage>([
  [methods.list.id, FileStatsSchema],
  [methods.sessionList.id, SessionInfosSchema],
  [methods.sessionCreate.id, SessionEventSchema],
  [methods.sessionAttach.id, SessionEventSchema],
  [methods.readFile.id, FileStatSchema],
  [methods.watch.id, WatchEventsSchema],
  [methods.connect.id, EmptySchema],
]);

const replies = new Map<number, DescMessage>(Object.values(methods).map(({ id, reply }) => [id, reply]));
const schemas = [...new Set([...streamed.values(), ...replies.values()])] as [DescMessage, ...DescMessage[]];

/** Streams that have ended are remembered, so that frames can come too late. */
const maxRemembered = 64;

/**
 * Plays an agent that was taken over: answers what the worker asks with random frames, and changes, repeats, delays and
 * drops the answers of a real agent. All choices come from `random`.
 */
export class Hostility implements Disposable {
  readonly #random: Random;
  readonly #manner: Manner;
  readonly #line: Line;
  readonly #timers = new Set<NodeJS.Timeout>();
  #epoch = 0;
  /** Method by stream, the oldest first. */
  readonly #streams = new Map<number, number>();
  /** Bytes that may still be sent on a stream. */
  readonly #credit = new Map<number, number>();
  /** Streams that this program answers itself. Frames of the real agent for them are dropped. */
  readonly #own = new Set<number>();
  /** What waits while a frame is sent byte by byte. */
  #held: Uint8Array[] | undefined;

  constructor(random: Random, manner: Manner, line: Line) {
    this.#random = random;
    this.#manner = manner;
    this.#line = line;
  }

  /** Takes a frame of the worker. Returns whether a real agent should see it. */
  fromWorker(frame: Frame): boolean {
    if (frame.type === frameTypes.hello) {
      this.#epoch = frame.epoch;
      this.#streams.clear();
      this.#credit.clear();
      this.#own.clear();
      return true;
    }
    if (frame.type === frameTypes.credit && frame.payload.length === 4) {
      const granted = new DataView(frame.payload.buffer, frame.payload.byteOffset).getUint32(0, true);
      this.#credit.set(frame.stream, this.#creditOf(frame.stream) + granted);
      return !this.#own.has(frame.stream);
    }
    if (frame.type !== frameTypes.open) return true;
    this.#streams.set(frame.stream, frame.tag);
    if (this.#streams.size > maxRemembered) this.#forgetOldest();
    if (this.#random.chance(10)) this.#disturb();
    if (this.#random.chance(35)) return true;
    this.#own.add(frame.stream);
    // No answer at all, for as long as the worker waits.
    if (this.#random.chance(10)) return false;
    this.#answer(frame.stream, frame.tag);
    // The real agent acts on the request all the same, or not.
    return this.#random.chance(50);
  }

  /** Takes a frame of the real agent, and sends it changed, late, twice or never. */
  fromAgent(frame: Frame): void {
    if (this.#own.has(frame.stream) && frame.type !== frameTypes.credit) return;
    const random = this.#random;
    if (random.chance(75)) return this.#send(frame);
    switch (random.below(6)) {
      case 0:
        return;
      case 1:
        this.#send(frame);
        return this.#send(frame);
      case 2:
        return this.#later(random.size(3000), () => this.#send(frame));
      case 3:
        return this.#send({ ...frame, payload: this.#flipped(frame.payload) });
      case 4:
        return this.#send({ ...frame, stream: this.#anyStream() });
      default:
        return this.#send({ ...frame, payload: frame.payload.subarray(0, random.below(frame.payload.length + 1)) });
    }
  }

  /** Sends something that no call has asked for. */
  disturb(): void {
    this.#disturb();
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #answer(stream: number, method: number): void {
    const random = this.#random;
    const expected = streamed.get(method);
    const message = expected ?? random.pick(schemas);
    // Most methods have nothing but a reply.
    const isBare = expected === undefined && random.chance(80);
    const count = isBare ? 0 : random.size(random.chance(20) ? 2000 : 8);
    const each = random.chance(20) ? maxMessageBytes : 2000;
    // Nothing but its frame bounds a reply of an agent that breaks the protocol.
    const maxReply = this.#manner === "lying" ? maxMessageBytes : maxPayloadBytes;
    const steps: (() => void)[] = [];
    for (let index = 0; index < count; index += 1) {
      const schema = random.chance(92) ? message : random.pick(schemas);
      steps.push(
        method === methods.connect.id || random.chance(30)
          ? () => this.#frame(frameTypes.data, stream, random.pick([1, 1, 2, 0, 255]), random.bytes(random.size(2000)))
          : () => this.#frame(frameTypes.message, stream, 0, randomMessage(random, schema, random.size(each))),
      );
    }
    // A connection and a file begin with one message of their own.
    if (!isBare && random.chance(70))
      steps.unshift(() => this.#frame(frameTypes.message, stream, 0, randomMessage(random, message, 500)));
    const reply = replies.get(method) ?? EmptySchema;
    const end = random.below(10);
    if (end < 6) {
      const isHuge = this.#manner === "breaking" && random.chance(30);
      steps.push(() => {
        const payload = isHuge ? unknownFields(maxReply) : randomMessage(random, reply, random.size(maxReply));
        this.#frame(frameTypes.end, stream, 0, payload);
      });
    } else if (end < 8) {
      steps.push(() =>
        this.#frame(frameTypes.failure, stream, 0, randomMessage(random, FailureSchema, random.size(maxReply))),
      );
    } else if (end < 9) {
      // The stream ends twice, and data follows.
      const twice = () => this.#frame(frameTypes.end, stream, 0, randomMessage(random, reply, 300));
      steps.push(twice, twice, () => this.#frame(frameTypes.data, stream, 1, random.bytes(100)));
    }
    this.#run(steps, random.chance(30) ? random.size(300) : 0);
  }

  /** Runs the steps one after another, `pauseMs` apart, and waits while the worker takes nothing. */
  #run(steps: (() => void)[], pauseMs: number): void {
    for (let done = 0; ; done += 1) {
      const step = steps.shift();
      if (step === undefined) return;
      step();
      if (pauseMs > 0 || done === 50 || !this.#line.isFree)
        return this.#later(pauseMs, () => this.#run(steps, pauseMs));
    }
  }

  #disturb(): void {
    const random = this.#random;
    const stream = this.#anyStream();
    switch (random.below(this.#manner === "lying" ? 9 : 15)) {
      case 0:
        return this.#frame(frameTypes.credit, stream, 0, new Uint8Array([0xff, 0xff, 0xff, 0xff]));
      case 1:
        return this.#frame(frameTypes.reset, stream, 0, new Uint8Array(0));
      case 2:
        return this.#frame(frameTypes.data, stream, random.below(256), random.bytes(random.size(maxDataBytes)));
      case 3: {
        // Remains of another epoch.
        const payload = compressed(random.size(maxPayloadBytes));
        return this.#send({ type: anyType(random), stream, tag: 0, epoch: random.below(2 ** 31), payload });
      }
      case 4: {
        this.#line.pause(true);
        return this.#later(random.size(5000), () => this.#line.pause(false));
      }
      case 5:
        return this.#flood(random.size(3000));
      case 6:
        return this.#drip(this.#anyFrame(), random.size(20));
      case 7:
        return this.#frame(
          frameTypes.failure,
          stream,
          0,
          randomMessage(random, FailureSchema, random.size(maxPayloadBytes)),
        );
      case 8:
        // The agent has been restarted, so it says: every stream ends.
        return random.chance(10) ? this.#greet(0) : undefined;
      case 9:
        return this.#write(random.bytes(random.size(200_000)));
      case 10:
        return this.#write(
          withHeader(maxPayloadBytes - random.below(2), anyType(random), random.bytes(random.size(70_000))),
        );
      case 11:
        return this.#send({ ...this.#anyFrame(), type: frameTypes.open });
      case 12:
        for (let count = 0; count < 200; count += 1) this.#greet(0);
        return;
      case 13:
        for (let count = 0; count < 40; count += 1) {
          this.#frame(frameTypes.message, stream, 0, compressed(random.size(maxPayloadBytes / 8)));
        }
        return;
      default:
        return this.#line.cut();
    }
  }

  #greet(epoch: number): void {
    const payload = randomMessage(this.#random, HelloSchema, this.#manner === "lying" ? 30 : 3000);
    this.#write(encodeFrame({ type: frameTypes.hello, stream: 0, tag: 0, epoch, payload }));
  }

  /** Frames of a stream that nobody has opened, as fast as the worker takes them. */
  #flood(forMs: number): void {
    const random = this.#random;
    const until = performance.now() + forMs;
    const payload = random.bytes(random.size(maxDataBytes));
    const bytes = encodeFrame({ type: frameTypes.data, stream: 0x7fff_ffff, tag: 1, epoch: this.#epoch, payload });
    const more = (): void => {
      for (let count = 0; count < 100 && this.#line.isFree; count += 1) this.#write(bytes);
      if (performance.now() < until) this.#later(1, more);
    };
    more();
  }

  /** Sends a frame one byte at a time; everything else waits. */
  #drip(frame: Frame, pauseMs: number): void {
    if (this.#held !== undefined || (this.#manner === "lying" && !this.#takeCredit(frame))) return;
    this.#held = [];
    const steps = [...encodeFrame(frame)].map((byte) => () => this.#line.send(new Uint8Array([byte])));
    this.#run([...steps, () => this.#release()], pauseMs);
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const bytes of held) this.#line.send(bytes);
  }

  /** Sends bytes in the order of the calls. */
  #write(bytes: Uint8Array): void {
    if (this.#held === undefined) this.#line.send(bytes);
    else this.#held.push(bytes);
  }

  #anyFrame(): Frame {
    const random = this.#random;
    const payload = randomMessage(random, random.pick(schemas), random.size(3000));
    return { type: anyType(random), stream: this.#anyStream(), tag: random.below(256), epoch: this.#epoch, payload };
  }

  /** A stream that is open, has ended, or was never opened. */
  #anyStream(): number {
    const known = [...this.#streams.keys()];
    const [first, ...others] = known;
    if (first === undefined || this.#random.chance(10)) return this.#random.below(2 ** 31);
    return this.#random.pick([first, ...others]);
  }

  #frame(type: FrameType, stream: number, tag: number, payload: Uint8Array): void {
    this.#send({ type, stream, tag, epoch: this.#epoch, payload });
  }

  /** Sends a frame. A liar leaves out what would break the protocol. */
  #send(frame: Frame): void {
    if (this.#manner === "lying" && !this.#takeCredit(frame)) return;
    this.#write(encodeFrame(frame));
  }

  /** Whether the protocol allows the frame. It uses up credit if it does. */
  #takeCredit({ type, stream, epoch, payload }: Frame): boolean {
    if (type === frameTypes.hello)
      return payload.length <= maxMessageBytes && parse(HelloSchema, payload) !== undefined;
    if (epoch !== this.#epoch) return true;
    switch (type) {
      case frameTypes.message:
      case frameTypes.data: {
        const left = this.#creditOf(stream) - headerBytes - payload.length;
        if (left < 0 || (type === frameTypes.message && payload.length > maxMessageBytes)) return false;
        this.#credit.set(stream, left);
        return true;
      }
      case frameTypes.end:
        return payload.length <= maxMessageBytes;
      case frameTypes.credit:
        return payload.length === 4;
      case frameTypes.failure:
        return parse(FailureSchema, payload) !== undefined;
      case frameTypes.reset:
        return true;
      case frameTypes.open:
        return false;
    }
  }

  #creditOf(stream: number): number {
    return this.#credit.get(stream) ?? initialCredit;
  }

  #flipped(payload: Uint8Array): Uint8Array {
    const changed = new Uint8Array(payload);
    for (let count = this.#random.below(4); count >= 0 && changed.length > 0; count -= 1) {
      const at = this.#random.below(changed.length);
      changed[at] = (changed[at] ?? 0) ^ (1 << this.#random.below(8));
    }
    return changed;
  }

  #forgetOldest(): void {
    const [oldest = 0] = this.#streams.keys();
    this.#streams.delete(oldest);
    this.#credit.delete(oldest);
    this.#own.delete(oldest);
  }

  #later(milliseconds: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, milliseconds);
    this.#timers.add(timer);
  }
}

function anyType(random: Random): FrameType {
  return random.pick(Object.values(frameTypes) as [FrameType, ...FrameType[]]);
}

/** The head of a gzip stream of zeros. */
function compressed(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set([0x1f, 0x8b, 0x08].slice(0, length));
  return bytes;
}

/** A valid header that promises more bytes than follow. */
function withHeader(length: number, type: FrameType, bytes: Uint8Array): Uint8Array {
  const frame = encodeFrame({ type, stream: 1, tag: 0, epoch: 0, payload: new Uint8Array(length) });
  return Buffer.concat([frame.subarray(0, headerBytes), bytes]);
}
