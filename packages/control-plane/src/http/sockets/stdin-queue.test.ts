import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import { test } from "node:test";
import { stdinWindow } from "@opensandbox/wire/public/guests/execs.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { StdinQueue } from "./stdin-queue.ts";

/** A command that takes input when the test lets it, and the client that sends it. */
function setUp() {
  const log: string[] = [];
  const taken: Uint8Array[] = [];
  const gate = { open: Promise.withResolvers<void>() };
  const counts = { closes: 0, taken: 0 };
  const queue = new StdinQueue(
    {
      write: async (bytes) => {
        await gate.open.promise;
        taken.push(Uint8Array.from(bytes));
      },
      closeStdin: async () => {
        await Promise.resolve();
        counts.closes += 1;
      },
    },
    {
      pause: () => log.push("pause"),
      resume: () => log.push("resume"),
      taken: (bytes) => (counts.taken += bytes),
    },
  );
  return { log, taken, gate, counts, queue };
}

test("input arrives in order, its end follows once, and every byte is reported as taken", async () => {
  const { queue, gate, taken, counts } = setUp();
  for (let number = 0; number < 1000; number += 1) queue.write(Buffer.from(`${number},`));
  for (let times = 0; times < 1000; times += 1) queue.end();
  queue.write(Buffer.from("after the end"));
  gate.open.resolve();
  await eventually("the end of the input", () => counts.closes > 0);
  const expected = Array.from({ length: 1000 }, (_, number) => `${number},`).join("");
  assert.equal(Buffer.concat(taken).toString(), expected);
  assert.equal(counts.taken, expected.length);
  await nextTurn();
  assert.equal(counts.closes, 1);
});

test("a client that exceeds the window waits until the command has taken enough", async () => {
  const { queue, gate, log } = setUp();
  queue.write(Buffer.alloc(stdinWindow));
  assert.deepEqual(log, []);
  queue.write(Buffer.alloc(1));
  assert.deepEqual(log, ["pause"]);
  gate.open.resolve();
  await eventually("the client is read again", () => log.length >= 2);
  assert.deepEqual(log, ["pause", "resume"]);
});

test("repeated ends of input and small messages take no memory of their own", () => {
  const { queue } = setUp();
  (globalThis as { gc?: () => void }).gc?.();
  const before = process.memoryUsage().heapUsed;
  const one = Uint8Array.of(1);
  for (let times = 0; times < stdinWindow; times += 1) queue.write(one);
  for (let times = 0; times < 1_000_000; times += 1) queue.end();
  const held = process.memoryUsage().heapUsed - before;
  assert.ok(held < 32 * 2 ** 20, `${Math.round(held / 2 ** 20)} MiB are held`);
});

test("the client waits for signals that the guest does not take", async () => {
  const { queue, log } = setUp();
  const waiting = Array.from({ length: 65 }, () => Promise.withResolvers<void>());
  for (const { promise } of waiting.slice(0, 64)) queue.control(promise);
  assert.deepEqual(log, []);
  queue.control(waiting[64]!.promise);
  assert.deepEqual(log, ["pause"]);
  waiting[0]!.reject(new Error("the command has ended"));
  await eventually("the client is read again", () => log.length >= 2);
  assert.deepEqual(log, ["pause", "resume"]);
});

test("after a failure the rest is dropped and the client is read again", async () => {
  const { queue, gate, log, counts } = setUp();
  queue.write(Buffer.alloc(stdinWindow + 1));
  gate.open.reject(new Error("the command has ended"));
  await eventually("the client is read again", () => log.length >= 2);
  assert.deepEqual(log, ["pause", "resume"]);
  queue.write(Buffer.alloc(10 * stdinWindow));
  assert.deepEqual([log.length, counts.taken], [2, 0]);
});
