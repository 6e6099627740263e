import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { TestWorker } from "#testing/test-worker.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { autosave } from "./autosave.ts";

const ids = Array.from({ length: 25 }, (_, n) => `sb-${String(n).padStart(8, "0")}` as SandboxId);
const running = () => Promise.resolve(ids);

/** A worker with guests that sync by the given function. */
function workerThat(sync: (id: SandboxId, signal: AbortSignal) => Promise<void>): TestWorker {
  const worker = new TestWorker();
  for (const id of ids) worker.guest(id).files.sync = (signal) => sync(id, signal);
  return worker;
}

test("every sandbox is saved, ten at a time, and a failure stops no other", async () => {
  const saved = new Set<SandboxId>();
  const logged: object[] = [];
  let now = 0;
  let most = 0;
  const worker = workerThat(async (id) => {
    most = Math.max(most, ++now);
    await new Promise(setImmediate);
    now--;
    if (id === ids[3]) throw new Error("no answer");
    saved.add(id);
  });
  await using _ = autosave({
    worker,
    running,
    everyMs: 1,
    log: (_level, _message, fields = {}) => logged.push(fields),
  });
  await eventually("all are saved", () => saved.size === 24);
  assert.equal(most, 10);
  await eventually("the failure is logged", () => logged.length > 0);
  assert.deepEqual((logged[0] as { sandbox: string }).sandbox, ids[3]);
});

test("a slow round does not overlap the next one, and disposing aborts it", async () => {
  let begun = 0;
  let rounds = 0;
  const worker = workerThat(
    (_id, signal) =>
      new Promise<void>((_resolve, reject) => {
        begun++;
        signal.addEventListener("abort", () => reject(signal.reason));
      }),
  );
  const saving = autosave({
    worker,
    running: () => {
      rounds++;
      return running();
    },
    everyMs: 1,
    log: (_level, message) => assert.fail(message),
  });
  await eventually("it has begun", () => begun === 10);
  await new Promise((resolve) => setTimeout(resolve, 20));
  await saving[Symbol.asyncDispose]();
  assert.deepEqual([begun, rounds], [10, 1]);
});

test("a guest that never answers costs its own deadline and keeps no other sandbox from being saved", async () => {
  const hangs = new Set(ids.slice(0, 12));
  const saved = new Set<SandboxId>();
  const logged: string[] = [];
  let rounds = 0;
  // The guests that hang ignore their signals, too.
  const worker = workerThat((id) => {
    if (hangs.has(id)) return new Promise<void>(() => {});
    saved.add(id);
    return Promise.resolve();
  });
  await using _ = autosave({
    worker,
    running: () => {
      rounds++;
      return running();
    },
    everyMs: 1,
    deadlineMs: 10,
    log: (_level, _message, fields) => logged.push(JSON.stringify(fields)),
  });
  await eventually("the others are saved", () => saved.size === ids.length - hangs.size);
  await eventually("the next round begins", () => rounds > 1);
  assert.match(logged[0] ?? "", /did not flush its disks within 0.01 seconds/);
});

test("a round that fails is logged, and the next one runs", async () => {
  const logged: string[] = [];
  await using _ = autosave({
    worker: workerThat(() => Promise.resolve()),
    running: () => Promise.reject(new Error("the database is locked")),
    everyMs: 1,
    log: (_level, message) => logged.push(message),
  });
  await eventually("two rounds have failed", () => logged.length > 1);
  assert.equal(logged[0], "autosave failed: the next round tries again");
});
