import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { isSandboxError, SandboxError } from "../errors.ts";
import { Channel, type ChannelEvents, initialCredit, maxMessageBytes, parse, type Stream } from "./channel.ts";
import {
  encodeFrame,
  type Frame,
  FrameReader,
  frameTypes,
  headerBytes,
  maxDataBytes,
  maxPayloadBytes,
} from "./frame.ts";
import { EmptySchema, file_messages, PathRequestSchema, PingReplySchema } from "./messages_pb.js";
import { methods } from "./methods.ts";

const epoch = 7;
const over = new SandboxError("unavailable", "the epoch is over");

test("bytes arrive complete and in order on every stream, and never exceed the credit on their way", async () => {
  const transfer = fc.record({
    /** Sizes of the pieces that the guest sends. */
    sends: fc.array(fc.integer({ min: 0, max: 400_000 }), { minLength: 1, maxLength: 5 }),
    /** The host reads nothing for this many turns. */
    pause: fc.nat({ max: 20 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(transfer, { minLength: 1, maxLength: 4 }), async (transfers) => {
      const pair = openPair();
      const ledger = watchCredit(pair);
      const received = await Promise.all(
        transfers.map(async ({ sends, pause }, index) => {
          const { host, guest } = await pair.open();
          const sending = (async () => {
            for (const [part, size] of sends.entries()) await guest.sendData(index, Buffer.alloc(size, part + 1));
            await guest.reply(EmptySchema, create(EmptySchema));
          })();
          for (let turn = 0; turn < pause; turn += 1) await nextTurn();
          const bytes = await takeAll(host, index);
          await sending;
          return bytes;
        }),
      );
      for (const [index, { sends }] of transfers.entries()) {
        const sent = Buffer.concat(sends.map((size, part) => Buffer.alloc(size, part + 1)));
        assert.ok(sent.equals(received[index]!), `stream ${index} got something else`);
      }
      assert.ok(ledger.peak() <= initialCredit, `${ledger.peak()} bytes were on the way`);
    }),
    { numRuns: 30 },
  );
});

test("messages of any allowed size never wait for credit that does not come", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: maxMessageBytes - 10 }), { maxLength: 12 }), async (sizes) => {
      const { host, guest } = await openPair().open();
      const sending = (async () => {
        for (const size of sizes) await guest.sendMessage(PathRequestSchema, pathOf(size));
      })();
      for (const size of sizes) {
        const incoming = await host.next();
        assert.equal(incoming.kind, "message");
        assert.ok(incoming.payload.length >= size);
      }
      await sending;
    }),
    { numRuns: 50 },
  );
});

test("a message that could wait forever is refused at once", async () => {
  const { guest } = await openPair().open();
  await assert.rejects(guest.sendMessage(PathRequestSchema, pathOf(maxMessageBytes + 1)), (error) =>
    isSandboxError(error, "invalid_argument"),
  );
});

test("a stream without a reader blocks no other", async () => {
  const pair = openPair();
  const slow = await pair.open();
  const other = await pair.open();
  let sent = false;
  const sending = slow.guest.sendData(1, Buffer.alloc(2 * initialCredit)).then(() => (sent = true));
  void other.guest
    .sendData(1, Buffer.alloc(4 * initialCredit))
    .then(async () => await other.guest.reply(EmptySchema, create(EmptySchema)));
  assert.equal((await takeAll(other.host, 1)).length, 4 * initialCredit);
  assert.equal(sent, false, "the slow stream has no credit left");
  for (let bytes = 0; bytes < 2 * initialCredit; bytes += (await slow.host.next()).payload.length);
  await sending;
});

test("a raised credit bounds what is sent before anything is taken", async () => {
  const pair = openPair();
  const { host, guest } = await pair.open();
  guest.raiseCredit(4 * initialCredit);
  let sent = 0;
  const sending = (async () => {
    for (; sent < 8 * initialCredit; sent += 20_000) await host.sendData(1, Buffer.alloc(20_000));
    await host.end();
  })();
  for (let turn = 0; turn < 100; turn += 1) await nextTurn();
  assert.ok(sent > 3.8 * initialCredit && sent <= 4 * initialCredit, `${sent} bytes`);
  let bytes = 0;
  for (let last: string | undefined; last !== "end";) {
    const all = await guest.nextAll();
    for (const { payload } of all) bytes += payload.length;
    last = all.at(-1)?.kind;
  }
  await sending;
  assert.equal(bytes, sent);
});

test("a new epoch ends every stream, and late frames of the old one are dropped", async () => {
  const pair = openPair();
  const { host, guest } = await pair.open();
  await guest.sendData(1, Buffer.from("before"));
  pair.hold();
  await guest.sendData(1, Buffer.from("late"));
  pair.host.startEpoch(epoch + 1, over);
  pair.release();
  assert.equal(Buffer.from((await host.next()).payload).toString(), "before", "what had come can be taken");
  await assert.rejects(host.next(), over);
  assert.equal(host.signal.aborted, true);

  pair.guest.startEpoch(epoch + 1, over);
  assert.equal(guest.signal.aborted, true);
  const again = await pair.open();
  await again.guest.sendData(1, Buffer.from("new"));
  assert.equal(Buffer.from((await again.host.next()).payload).toString(), "new");
});

test("a Hello passes in any epoch", async () => {
  const pair = openPair();
  const hellos: [bigint, number][] = [];
  const lone = new Channel(
    { write: async () => undefined },
    { hello: ({ instance }, of) => hellos.push([instance, of]) },
  );
  pair.tap("guest", (bytes) => lone.receive(bytes));
  await pair.guest.sendHello({ version: "1", instance: 5n });
  pair.guest.startEpoch(9, over);
  await pair.guest.sendHello({ version: "1", instance: 6n });
  assert.deepEqual(hellos, [
    [5n, epoch],
    [6n, 9],
  ]);
});

test("a refusal arrives as the same error, with its details", async () => {
  const { host, guest } = await openPair().open();
  await guest.refuse(new SandboxError("not_found", "no such file", { resource: "file", id: "/a" }));
  await assert.rejects(host.next(), (error) => {
    assert.ok(isSandboxError(error, "not_found"));
    assert.equal(error.message, "no such file");
    assert.deepEqual(error.details, { resource: "file", id: "/a" });
    return true;
  });
});

test("a stream that is given up stops its sender", async () => {
  const { host, guest } = await openPair().open();
  const sending = guest.sendData(1, Buffer.alloc(2 * initialCredit));
  const refused = assert.rejects(sending, (error) => isSandboxError(error, "canceled"));
  host.reset(over);
  await refused;
  assert.equal(guest.signal.aborted, true);
});

test("a stream that has ended leaves no listener on the signal of its caller", async () => {
  const pair = openPair();
  const caller = AbortSignal.any([new AbortController().signal]);
  const canceled = (): SandboxError => new SandboxError("canceled", "the caller has left");
  const answered = await pair.open();
  const refused = await pair.open();
  for (const { host } of [answered, refused]) host.resetOn(caller, canceled);
  assert.equal(getEventListeners(caller, "abort").length, 2);
  await answered.guest.reply(EmptySchema, create(EmptySchema));
  await refused.guest.refuse(new SandboxError("not_found", "no such file", { resource: "file", id: "/a" }));
  await answered.host.next();
  await assert.rejects(refused.host.next());
  assert.equal(getEventListeners(caller, "abort").length, 0);
  answered.host.resetOn(caller, canceled);
  assert.equal(getEventListeners(caller, "abort").length, 0);
});

test("input after the answer is refused without breaking the channel", async () => {
  const { host, guest } = await openPair().open();
  await guest.reply(PingReplySchema, create(PingReplySchema, {}));
  assert.equal((await host.next()).kind, "end");
  await assert.rejects(host.sendData(0, Buffer.from("x")), (error) => isSandboxError(error, "canceled"));
});

test("a failed transport ends every stream, and opening another one throws the same error", async () => {
  const pair = openPair();
  const { host } = await pair.open();
  const ended = assert.rejects(host.next(), (error) => isSandboxError(error, "unavailable"));
  pair.cut();
  await assert.rejects(host.sendData(0, Buffer.from("x")));
  await ended;
  assert.throws(() => pair.host.open(methods.ping, create(methods.ping.request)), /agent channel is closed/);
});

test("a peer that sends garbage is given up once, after a bounded number of bytes", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1000, maxLength: 4000 }), (piece) => {
      const { channel, broken } = lonely();
      const limit = 2 * maxPayloadBytes + 2 * piece.length;
      let sent = 0;
      for (; broken.length === 0 && sent <= limit; sent += piece.length) channel.receive(piece);
      assert.equal(broken.length, 1);
      channel.receive(piece);
      assert.equal(broken.length, 1);
    }),
    { numRuns: 10 },
  );
});

test("random frames of a hostile peer never throw, and break the channel at most once", () => {
  const frames = fc.record({
    stream: fc.integer({ min: 0, max: 3 }),
    epoch: fc.constantFrom(epoch, epoch, epoch, 8),
    type: fc.constantFrom(...Object.values(frameTypes)),
    tag: fc.integer({ min: 0, max: 255 }),
    payload: fc.uint8Array({ maxLength: 40 }),
  });
  fc.assert(
    fc.property(fc.array(frames, { maxLength: 60 }), fc.boolean(), (sent, asGuest) => {
      const { channel, broken } = lonely(asGuest ? { opened: () => undefined } : {});
      if (!asGuest) for (let count = 0; count < 2; count += 1) channel.open(methods.ping, create(methods.ping.request));
      for (const frame of sent) channel.receive(encodeFrame(frame));
      assert.ok(broken.length <= 1);
    }),
  );
});

for (const [what, payload] of [
  ["data beyond the credit", new Uint8Array(maxDataBytes)],
  ["empty messages endlessly", new Uint8Array(0)],
] as const) {
  test(`a peer that sends ${what} is given up before it fills the memory`, () => {
    const { channel, broken } = lonely();
    const { id } = channel.open(methods.sessionCreate, create(methods.sessionCreate.request));
    const frame = encodeFrame({ stream: id, epoch, type: frameTypes.message, tag: 0, payload });
    let sent = 0;
    for (; broken.length === 0; sent += frame.length) channel.receive(frame);
    assert.ok(sent <= initialCredit + frame.length, `${sent} bytes were kept`);
    assert.match(broken[0]?.message ?? "", /exceeds its credit/);
  });
}

for (const [what, type] of [
  ["message", frameTypes.message],
  ["reply", frameTypes.end],
  ["Hello", frameTypes.hello],
] as const) {
  test(`a ${what} longer than any that an agent sends closes the channel before it is parsed`, () => {
    const { channel, broken } = lonely();
    const stream = channel.open(methods.ping, create(methods.ping.request));
    // Fields that no message has: valid, and the most expensive to parse.
    const payload = new Uint8Array(maxMessageBytes + 2).map((_, at) => (at % 2 === 0 ? 0x78 : 0));
    channel.receive(encodeFrame({ stream: stream.id, epoch, type, tag: 0, payload }));
    assert.equal(broken.length, 1);
  });
}

test("unknown fields of a message are not kept", () => {
  const unknown = Buffer.from("7800".repeat(60_000), "hex");
  const message = parse(EmptySchema, unknown);
  assert.deepEqual(Object.keys(message ?? assert.fail("the message is not accepted")), ["$typeName"]);
});

test("a small payload that waits does not keep its chunk alive", async () => {
  const { channel } = lonely();
  const stream = channel.open(methods.sessionCreate, create(methods.sessionCreate.request));
  const frame = encodeFrame({ stream: stream.id, epoch, type: frameTypes.data, tag: 1, payload: Buffer.from("small") });
  channel.receive(Buffer.concat([frame, Buffer.alloc(65_536)]));
  const { payload } = await stream.next();
  assert.equal(Buffer.from(payload).toString(), "small");
  assert.ok(payload.buffer.byteLength < 1000);
});

/** A channel whose peer is played by the test. */
function lonely(events: ChannelEvents = {}): { channel: Channel; broken: SandboxError[] } {
  const broken: SandboxError[] = [];
  const channel = new Channel({ write: async () => undefined }, { ...events, broken: (error) => broken.push(error) });
  channel.startEpoch(epoch, over);
  return { channel, broken };
}

type Side = "host" | "guest";

/** Both ends in one process, in the same epoch. */
function openPair() {
  const taps: Record<Side, ((bytes: Uint8Array) => void)[]> = { host: [], guest: [] };
  const held: (() => void)[] = [];
  let holding = false;
  let whole = true;
  const opened: ((stream: Stream) => void)[] = [];

  const transport = (side: Side, peer: () => Channel) => ({
    async write(bytes: Uint8Array) {
      if (!whole) throw new Error("cut");
      for (const tap of taps[side]) tap(bytes);
      const deliver = (): void => peer().receive(bytes.slice());
      // A line delivers later than it accepts.
      await nextTurn();
      if (holding) held.push(deliver);
      else deliver();
    },
  });
  const host: Channel = new Channel(
    transport("host", () => guest),
    {},
  );
  const guest: Channel = new Channel(
    transport("guest", () => host),
    { opened: (stream) => opened.shift()?.(stream) },
  );
  host.startEpoch(epoch, over);
  guest.startEpoch(epoch, over);
  return {
    host,
    guest,
    tap: (side: Side, tap: (bytes: Uint8Array) => void) => void taps[side].push(tap),
    hold: () => void (holding = true),
    release() {
      holding = false;
      for (const deliver of held.splice(0)) deliver();
    },
    cut: () => void (whole = false),
    async open(): Promise<{ readonly host: Stream; readonly guest: Stream }> {
      const { promise, resolve } = Promise.withResolvers<Stream>();
      opened.push(resolve);
      const stream = host.open(methods.sessionCreate, create(methods.sessionCreate.request));
      return { host: stream, guest: await promise };
    },
  };
}

/**
 * Watches the line. `peak`: the most bytes that the guest ever had on their way on one stream, in excess of renewed
 * credit.
 */
function watchCredit(pair: ReturnType<typeof openPair>): { peak(): number } {
  const outstanding = new Map<number, number>();
  let peak = 0;
  const count = (side: Side, change: (frame: Frame) => number): void => {
    const reader = new FrameReader();
    pair.tap(side, (bytes) => {
      for (const frame of reader.push(bytes)) {
        const now = (outstanding.get(frame.stream) ?? 0) + change(frame);
        outstanding.set(frame.stream, now);
        peak = Math.max(peak, now);
      }
    });
  };
  count("guest", ({ type, payload }) =>
    type === frameTypes.data || type === frameTypes.message ? headerBytes + payload.length : 0,
  );
  count("host", ({ type, payload }) =>
    type === frameTypes.credit ? -new DataView(payload.buffer, payload.byteOffset).getUint32(0, true) : 0,
  );
  return { peak: () => peak };
}

async function takeAll(stream: Stream, tag: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "end") return Buffer.concat(parts);
    assert.ok(incoming.kind === "data" && incoming.tag === tag);
    parts.push(incoming.payload);
  }
}

function pathOf(bytes: number) {
  return create(PathRequestSchema, { path: "x".repeat(bytes) });
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Every message that a guest may send. */
const schemas = file_messages.messages;

test("any bytes are parsed as each message or as none, with at most one value for each byte", () => {
  // Field numbers below 16 with every wire type make most bytes the beginning of a field.
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.array(fc.constantFrom(0x00, 0x01, 0x08, 0x0a, 0x0b, 0x12, 0x1a, 0x22, 0x2a, 0x7f, 0xff), { maxLength: 300 }),
  );
  fc.assert(
    fc.property(bytes, fc.constantFrom(...schemas), (sent, schema) => {
      const message = parse(schema, Uint8Array.from(sent));
      if (message !== undefined) assert.ok(countElements(message) <= sent.length);
    }),
    { numRuns: 2000 },
  );
});

/** Elements of lists and maps, at any depth: the part of a message that grows with its bytes. */
function countElements(value: unknown): number {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return 0;
  const inside = Object.values(value).reduce((sum: number, part) => sum + countElements(part), 0);
  return Array.isArray(value) ? inside + value.length : inside;
}
