import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { IdleTime } from "./idle-time.ts";

test("the host is idle when a quiet period has passed since the last start ended", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const idle = new IdleTime();
  const never = new AbortController().signal;
  await idle.untilIdle(never);
  const [first, second] = [idle.markBusy(), idle.markBusy()];
  let came = 0;
  for (let waiting = 0; waiting < 2; waiting += 1) void idle.untilIdle(never).then(() => (came += 1));

  first[Symbol.dispose]();
  first[Symbol.dispose]();
  t.mock.timers.tick(10_000);
  await turn();
  assert.equal(came, 0, "the second start is still running");

  second[Symbol.dispose]();
  t.mock.timers.tick(499);
  const third = idle.markBusy();
  t.mock.timers.tick(10_000);
  await turn();
  assert.equal(came, 0, "a third start began within the quiet period");

  third[Symbol.dispose]();
  t.mock.timers.tick(500);
  await turn();
  assert.equal(came, 2);
  await idle.untilIdle(never);
});

test("aborting the signal ends the wait for idle time", async () => {
  const idle = new IdleTime();
  using _ = idle.markBusy();
  const ending = new AbortController();
  const waiting = idle.untilIdle(ending.signal);
  ending.abort();
  await waiting;
  await idle.untilIdle(ending.signal);
});
