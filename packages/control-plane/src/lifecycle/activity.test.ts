import assert from "node:assert/strict";
import { test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { Activity } from "./activity.ts";

function setUp(idleTimeoutSeconds: number) {
  const clock = new ManualClock();
  const stored: Date[] = [];
  const activity = new Activity(clock, (_id, expiresAt) => stored.push(expiresAt));
  const id = newSandboxId();
  let row = activity.expiresAt(idleTimeoutSeconds);
  activity.watch(id, idleTimeoutSeconds);
  return { clock, activity, id, stored, row: () => (row = stored.at(-1) ?? row) };
}

test("a sandbox expires after its idle timeout, not before", () => {
  const { clock, activity, id } = setUp(60);
  clock.advance(59.9);
  assert.deepEqual(activity.sweep(), []);
  clock.advance(0.1);
  assert.deepEqual(activity.sweep(), [id]);
});

test("every call restarts the timeout", () => {
  const { clock, activity, id } = setUp(60);
  for (let call = 0; call < 10; call++) {
    clock.advance(59);
    activity.begin(id)[Symbol.dispose]();
  }
  clock.advance(59);
  assert.deepEqual(activity.sweep(), []);
  assert.equal(activity.deadline(id)?.getTime(), clock.now() + 1000);
});

test("a sandbox in use does not expire, and its timeout begins when the use ends", () => {
  const { clock, activity, id } = setUp(60);
  const use = activity.begin(id);
  clock.advance(3600);
  assert.deepEqual(activity.sweep(), []);
  use[Symbol.dispose]();
  clock.advance(59);
  assert.deepEqual(activity.sweep(), []);
  clock.advance(1);
  assert.deepEqual(activity.sweep(), [id]);
});

test("a timeout of 0 never expires", () => {
  const { clock, activity, stored, id } = setUp(0);
  activity.begin(id)[Symbol.dispose]();
  clock.advance(1e9);
  assert.deepEqual(activity.sweep(), []);
  assert.equal(activity.expiresAt(0), undefined);
  assert.deepEqual(stored, []);
});

test("the row of a busy sandbox is written rarely, and its deadline is never early nor much too late", () => {
  const { clock, activity, id, stored, row } = setUp(300);
  for (let call = 0; call < 10_000; call++) {
    clock.advance(0.1);
    activity.begin(id)[Symbol.dispose]();
    const late = (row()?.getTime() ?? 0) - (clock.now() + 300_000);
    assert.ok(late >= 0 && late <= 10_000, `${late} ms`);
  }
  assert.ok(stored.length <= 101, `${stored.length} writes in 1000 s`);
});

test("sweeps renew the stored deadline of a sandbox in long use", () => {
  const { clock, activity, id, row } = setUp(30);
  using _ = activity.begin(id);
  for (let second = 0; second < 600; second++) {
    clock.advance(1);
    activity.sweep();
    assert.ok((row()?.getTime() ?? 0) >= clock.now() + 29_000);
  }
});

test("a timeout that changes during a call keeps the call", () => {
  const { clock, activity, id } = setUp(60);
  const use = activity.begin(id);
  activity.watch(id, 5);
  clock.advance(100);
  assert.deepEqual(activity.sweep(), []);
  use[Symbol.dispose]();
  clock.advance(5);
  assert.deepEqual(activity.sweep(), [id]);
});
