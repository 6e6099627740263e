// The short form of `node tests/torture/forks.ts`, which starts 64 forks: case 30 of docs/faults.md.
import assert from "node:assert/strict";
import { test } from "node:test";
import { forkMany } from "./fork-many.ts";

test("30: forks of one checkpoint that start at the same time share no value that must be unique", async (t) => {
  const say = (line: string): void => t.diagnostic(line);
  const { failures, clocks } = await forkMany({ count: 4, batch: 4, image: "default", say });
  assert.deepEqual(failures, []);
  // The clock's error depends on the host's load: `forks.ts` measures it on a quiet host.
  for (const { aheadMs, withinMs } of clocks) t.diagnostic(`clock ${aheadMs} ms ahead, known to ${withinMs} ms`);
});
