import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  encodeFrame,
  type Frame,
  FrameReader,
  frameTypes,
  type FrameType,
  headerBytes,
  maxPayloadBytes,
} from "./frame.ts";

const frames: fc.Arbitrary<Frame> = fc.record({
  stream: fc.integer({ min: 0, max: 0xffff_ffff }),
  epoch: fc.integer({ min: 0, max: 0xffff_ffff }),
  type: fc.constantFrom<FrameType>(...Object.values(frameTypes)),
  tag: fc.integer({ min: 0, max: 255 }),
  payload: fc.uint8Array({ maxLength: 200 }),
});

test("any split of the bytes gives the same frames", () => {
  fc.assert(
    fc.property(
      fc.array(frames, { maxLength: 8 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 90 })),
      (sent, sizes) => {
        const reader = new FrameReader();
        const got = splitBy(Buffer.concat(sent.map(encodeFrame)), sizes).flatMap((chunk) => reader.push(chunk));
        assert.deepEqual(got.map(plain), sent.map(plain));
        assert.equal(reader.skipped, 0);
      },
    ),
  );
});

test("garbage before a frame is skipped and counted, for any split", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 300 }),
      fc.array(frames, { minLength: 1, maxLength: 4 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 90 })),
      (garbage, sent, sizes) => {
        const reader = new FrameReader();
        const bytes = Buffer.concat([garbage, ...sent.map(encodeFrame)]);
        const got = splitBy(bytes, sizes).flatMap((chunk) => reader.push(chunk));
        assert.deepEqual(got.map(plain), sent.map(plain));
        assert.equal(reader.skipped, 0, "counted from the last frame on");
        reader.push(Buffer.alloc(50));
        assert.equal(reader.skipped, 50 - (headerBytes - 1));
      },
    ),
  );
});

test("a reader that joins in the middle of a frame finds the next one", () => {
  fc.assert(
    fc.property(frames, frames, fc.nat(), (missed, next, cut) => {
      const torn = encodeFrame(missed);
      const rest = torn.subarray(1 + (cut % (torn.length - 1)));
      const got = new FrameReader().push(Buffer.concat([rest, encodeFrame(next)]));
      assert.deepEqual(plain(got.at(-1)!), plain(next));
    }),
  );
});

test("a header with any flipped bit is not a frame", () => {
  fc.assert(
    fc.property(frames, fc.integer({ min: 0, max: headerBytes * 8 - 1 }), (frame, bit) => {
      const bytes = encodeFrame({ ...frame, payload: new Uint8Array(0) });
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      assert.deepEqual(new FrameReader().push(bytes), []);
    }),
  );
});

test("the largest frame passes, and a larger one does not", () => {
  const largest: Frame = {
    stream: 1,
    epoch: 2,
    type: frameTypes.open,
    tag: 3,
    payload: new Uint8Array(maxPayloadBytes),
  };
  const reader = new FrameReader();
  const got = splitBy(Buffer.from(encodeFrame(largest)), [65_536]).flatMap((chunk) => reader.push(chunk));
  assert.deepEqual(got.map(plain), [plain(largest)]);
  const tooLarge = encodeFrame({ ...largest, payload: new Uint8Array(maxPayloadBytes + 1) });
  assert.deepEqual(new FrameReader().push(tooLarge), []);
});

test("zeros are not frames", () => {
  const reader = new FrameReader();
  assert.deepEqual(reader.push(Buffer.alloc(100_000)), []);
  assert.equal(reader.skipped, 100_000 - (headerBytes - 1));
});

/** Pieces of the given sizes; the last size repeats to the end. */
function splitBy(bytes: Buffer, sizes: Iterable<number>): Buffer[] {
  const pieces: Buffer[] = [];
  const next = sizes[Symbol.iterator]();
  let size = 1;
  for (let at = 0; at < bytes.length; at += size) {
    size = (next.next().value as number | undefined) ?? size;
    pieces.push(bytes.subarray(at, at + size));
  }
  return pieces;
}

/** A frame to compare, for any kind of view as its payload. */
function plain({ payload, ...header }: Frame): object {
  return { ...header, payload: Buffer.from(payload).toString("hex") };
}

test("a frame that arrives byte by byte holds its own size and none of its chunks", () => {
  const sent = encodeFrame({ stream: 1, epoch: 1, type: frameTypes.data, tag: 1, payload: new Uint8Array(200_000) });
  const reader = new FrameReader();
  const before = process.memoryUsage().arrayBuffers;
  const chunks = 20_000;
  for (let at = 0; at < chunks; at += 1) {
    // Sockets deliver such chunks: a small part of a large buffer.
    const chunk = new Uint8Array(65_536);
    chunk[0] = sent[at]!;
    assert.deepEqual(reader.push(chunk.subarray(0, 1)), []);
  }
  const held = process.memoryUsage().arrayBuffers - before;
  assert.ok(held < 400 * 2 ** 20, `${held} of ${chunks * 65_536} bytes are held`);
  const [frame] = reader.push(sent.subarray(chunks));
  assert.equal(frame?.payload.length, 200_000);
});

for (const [what, bytes, maxCopies] of [
  ["a frame", encodeFrame({ stream: 1, epoch: 1, type: frameTypes.data, tag: 0, payload: new Uint8Array(20_000) }), 2],
  ["bytes that are not frames", new Uint8Array(4000).fill(0xff), 2 * headerBytes],
] as const) {
  test(`${what} in chunks of any size: at most ${maxCopies} copies of each byte`, (t) => {
    const typedArray = Object.getPrototypeOf(Uint8Array.prototype) as Uint8Array;
    const set = t.mock.method(typedArray, "set").mock;
    const slice = t.mock.method(typedArray, "slice").mock;
    for (const size of [1, 2, 7, headerBytes, 1000]) {
      for (const mock of [set, slice]) mock.resetCalls();
      const reader = new FrameReader();
      for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size));
      const lengths = [...set.calls.map((call) => call.arguments[0]), ...slice.calls.map(({ result }) => result)];
      const copied = lengths.reduce((sum, part) => sum + (part?.length ?? 0), 0);
      // A header may be joined and kept byte by byte.
      assert.ok(copied <= maxCopies * bytes.length + 2 * headerBytes ** 2, `${copied / bytes.length} with ${size}`);
    }
  });
}
