import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import {
  contentBytesOf,
  decodeChunks,
  decodeRuns,
  type DeltaChunk,
  encodeChunkedTail,
  encodeTail,
  footerBytes,
  pageBytes,
  type PageRun,
  readFooter,
} from "./delta.ts";

/** Runs in order, some of zeros, that fit into a memory of `pages` pages. */
function runsWithin(pages: number): fc.Arbitrary<PageRun[]> {
  const step = fc.record({ gap: fc.nat(50), count: fc.integer({ min: 1, max: 50 }), zero: fc.boolean() });
  return fc.array(step, { maxLength: 40 }).map((steps) => {
    const runs: PageRun[] = [];
    let at = 0;
    for (const { gap, count, zero } of steps) {
      const first = at + gap;
      if (first + count > pages) break;
      runs.push({ first, count, zero });
      at = first + count;
    }
    return runs;
  });
}

const memoryPages = 4096;

test("runs are read as they were written", () => {
  fc.assert(
    fc.property(runsWithin(memoryPages), (runs) => {
      const stored = runs.reduce((sum, { count, zero }) => sum + (zero ? 0 : count), 0) * pageBytes;
      const tail = encodeTail(runs);
      const { pagesEnd } = readFooter(tail.subarray(-footerBytes), stored + tail.length);
      assert.equal(pagesEnd, stored);
      assert.deepEqual(decodeRuns(tail.subarray(0, -footerBytes), memoryPages), runs);
    }),
  );
});

/** Chunks that have the runs among them in order, and their pages in any order. */
const chunks = fc
  .tuple(runsWithin(memoryPages), fc.array(fc.nat(5)), fc.infiniteStream(fc.nat()))
  .map(([runs, sizes, order]) => {
    const split: PageRun[][] = [];
    for (const size of sizes) split.push(runs.splice(0, size));
    split.push(runs);
    const placed = split.map((own) => ({ own, key: order.next().value ?? 0 })).toSorted((a, b) => a.key - b.key);
    const offsets = new Map<PageRun[], number>();
    let end = 0;
    for (const { own } of placed) {
      offsets.set(own, end);
      end += contentBytesOf(own);
    }
    return split.map((own, index): DeltaChunk => ({
      offset: offsets.get(own)!,
      runs: own,
      sha256: `${index}`.padStart(64, "0"),
    }));
  });

test("chunks are read as they were written, wherever in the file their pages are", () => {
  fc.assert(
    fc.property(chunks, (written) => {
      const tail = encodeChunkedTail(written);
      const stored = contentBytesOf(written.flatMap(({ runs }) => runs));
      const footer = readFooter(tail.subarray(-footerBytes), stored + tail.length);
      assert.deepEqual(
        { ...footer, runs: undefined },
        { version: 2, pagesEnd: stored, chunks: written.length, runs: undefined },
      );
      assert.deepEqual(decodeChunks(tail, footer, memoryPages), written);
    }),
  );
});

test("a chunk whose pages lie beyond the file's is refused", () => {
  const sha256 = "0".repeat(64);
  const chunk = { offset: pageBytes, runs: [{ first: 0, count: 1, zero: false }], sha256 };
  const tail = encodeChunkedTail([chunk]);
  const footer = readFooter(tail.subarray(-footerBytes), pageBytes + tail.length);
  assert.throws(
    () => decodeChunks(tail, footer, memoryPages),
    (error) => isSandboxError(error, "incompatible"),
  );
});

test("a file that was cut off, or is not a delta, is refused", () => {
  const tail = encodeTail([{ first: 3, count: 2, zero: false }]);
  const footer = tail.subarray(-footerBytes);
  const whole = 2 * pageBytes + tail.length;
  assert.ok(readFooter(footer, whole));
  for (const bytes of [whole - 1, whole + pageBytes, tail.length]) {
    assert.throws(
      () => readFooter(footer, bytes),
      (error) => isSandboxError(error, "incompatible"),
    );
  }
  const other = Buffer.from(footer);
  other.write("SOMETHIN", 0);
  assert.throws(
    () => readFooter(other, whole),
    (error) => isSandboxError(error, "incompatible"),
  );
});

test("runs beyond the memory or out of order are refused", () => {
  const index = (runs: PageRun[]): Buffer => encodeTail(runs).subarray(0, -footerBytes);
  const beyond = index([{ first: memoryPages - 1, count: 2, zero: false }]);
  const backwards = index([
    { first: 9, count: 1, zero: true },
    { first: 3, count: 1, zero: true },
  ]);
  for (const wrong of [beyond, backwards]) {
    assert.throws(
      () => decodeRuns(wrong, memoryPages),
      (error) => isSandboxError(error, "incompatible"),
    );
  }
});
