import assert from "node:assert/strict";
import { test } from "node:test";
import { BackgroundTask } from "./background-task.ts";

test("starts during a run lead to one more run, of the last one", async () => {
  const task = new BackgroundTask();
  const ran: string[] = [];
  const first = Promise.withResolvers<void>();
  const last = Promise.withResolvers<void>();
  task.start(async () => {
    ran.push("first");
    await first.promise;
  });
  task.start(async () => void ran.push("second"));
  task.start(async () => {
    ran.push("third");
    last.resolve();
  });
  assert.deepEqual(ran, ["first"]);
  first.resolve();
  await last.promise;
  await task.stop();
  assert.deepEqual(ran, ["first", "third"]);
});

test("a stop aborts the run, waits for its end, and drops what waits for it", async () => {
  const task = new BackgroundTask();
  const ran: string[] = [];
  task.start(async (signal) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    ran.push("aborted");
  });
  task.start(async () => void ran.push("never"));
  await task.stop();
  assert.deepEqual(ran, ["aborted"]);
  task.start(async () => void ran.push("later"));
  assert.deepEqual(ran, ["aborted", "later"]);
});

test("a run that fails leaves the task to the next", async () => {
  const task = new BackgroundTask();
  const next = Promise.withResolvers<void>();
  task.start(async () => {
    throw new Error("the disk is full");
  });
  task.start(async () => next.resolve());
  await next.promise;
});
