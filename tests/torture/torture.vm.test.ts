// The short forms of `node tests/torture/torture.ts`, which runs for any length of time, and of `disk.ts`, which uses
// more machines.
import assert from "node:assert/strict";
import { test } from "node:test";
import { diskUse, writtenBytes } from "./disk-use.ts";
import { tortureSandbox } from "./torture-sandbox.ts";

/** A checkpoint, a hibernation, a fork of the earlier checkpoint, another checkpoint, a restore, and another fork. */
const seed = 2110;
const rounds = 6;

test("a sandbox that writes continuously loses nothing over checkpoints, forks, hibernations and wakes", async (t) => {
  t.diagnostic(`seed ${seed}`);
  const say = (line: string): void => t.diagnostic(line);
  const { failures, done } = await tortureSandbox({ rounds, seed, image: "default", files: 500, say });
  assert.deepEqual(failures, []);
  for (const [operation, times] of Object.entries(done)) assert.ok(times > 0, `there was no ${operation}`);
});

test("idle sandboxes of one template cost only their writes, and unneeded data is freed", async (t) => {
  const count = 3;
  const { before, idle, written, checkpoint, fork, after } = await diskUse(count);
  t.diagnostic(JSON.stringify({ before, idle, written, checkpoint, fork, after }));
  // Clusters of a layer are 64 KiB, so a layer takes a little more than was written, and far less than a whole disk.
  const little = 4 * 2 ** 20;
  assert.ok(idle - before < count * little, "idle");
  assert.ok(written - idle >= writtenBytes && written - idle < writtenBytes + little, "written");
  assert.ok(checkpoint - before >= writtenBytes && checkpoint - before < writtenBytes + 2 * little, "checkpoint");
  assert.ok(fork - before >= writtenBytes && fork - before < writtenBytes + 2 * little, "fork");
  assert.equal(after, before);
});
