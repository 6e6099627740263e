// The short form of what `node tests/torture/forks.ts` does with 64: case 30 of docs/faults.md.
import assert from "node:assert/strict";
import { test } from "node:test";
import { forkMany } from "./fork-many.ts";

/** The clock of a fork may be so far from the host's. */
const mostSkewMs = 50;

test("30: forks of one checkpoint that start at the same time have nothing in common that they must not", async (t) => {
  const say = (line: string): void => t.diagnostic(line);
  const { failures, clocks } = await forkMany({ count: 4, batch: 4, image: "default", say });
  assert.deepEqual(failures, []);
  for (const { aheadMs, withinMs } of clocks) {
    // The clock is read over a line that may be slow: what is not known of it is no skew.
    assert.ok(Math.abs(aheadMs) - withinMs < mostSkewMs, `${aheadMs} ms ahead, known to ${withinMs} ms`);
  }
});
