// The short form of what `node tests/torture/torture.ts` does for as long as one likes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { tortureSandbox } from "./torture-sandbox.ts";

/** A checkpoint, a hibernation, a fork of what was before it, another checkpoint, a restore, and a fork after all. */
const seed = 2110;
const rounds = 6;

test("a sandbox that writes without pause loses nothing over checkpoints, forks, hibernations and wakes", async (t) => {
  t.diagnostic(`seed ${seed}`);
  const say = (line: string): void => t.diagnostic(line);
  const { failures, done } = await tortureSandbox({ rounds, seed, image: "default", files: 500, say });
  assert.deepEqual(failures, []);
  for (const [operation, times] of Object.entries(done)) assert.ok(times > 0, `there was no ${operation}`);
});
