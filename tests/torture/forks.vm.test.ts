// The short form of what `node tests/torture/forks.ts` does with 64: case 30 of docs/faults.md.
import assert from "node:assert/strict";
import { test } from "node:test";
import { forkMany } from "./fork-many.ts";

test("30: forks of one checkpoint that start at the same time have nothing in common that they must not", async (t) => {
  const say = (line: string): void => t.diagnostic(line);
  const { failures, clocks } = await forkMany({ count: 4, batch: 4, image: "default", say });
  assert.deepEqual(failures, []);
  // The delay of the clock depends on the host's load: `forks.ts` measures it on a quiet host.
  for (const { aheadMs, withinMs } of clocks) t.diagnostic(`clock ${aheadMs} ms ahead, known to ${withinMs} ms`);
});
