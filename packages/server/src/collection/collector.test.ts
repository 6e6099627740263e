import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Collector } from "./collector.ts";
import type { CollectionReport } from "./collect.ts";

const nothing: CollectionReport = { removed: [], failed: [], bytes: 0, unusedBytes: 0, maxBytes: 0 };

interface Round {
  readonly signal: AbortSignal;
  readonly end: (result: CollectionReport | Error) => void;
}

/** A collector whose rounds a test ends. An interrupted round ends by itself unless it `lingers`. */
function collectorForTest(everyMs: number, { lingers = false } = {}) {
  const rounds: Round[] = [];
  const logged: string[] = [];
  const collector = new Collector({
    collect: (signal) =>
      new Promise((resolve, reject) => {
        if (!lingers) signal.addEventListener("abort", () => resolve(nothing), { once: true });
        rounds.push({ signal, end: (result) => (result instanceof Error ? reject(result) : resolve(result)) });
      }),
    log: (level, message) => logged.push(`${level} ${message}`),
    everyMs,
    soonMs: 1,
  });
  return { collector, rounds, logged };
}

const never = 2 ** 30;

test("requests during a collection bring about one more, and no two run at once", async () => {
  const { collector, rounds } = collectorForTest(never);
  await using _ = collector;
  await eventually("the first round", () => rounds.length === 1);
  for (let request = 0; request < 3; request += 1) {
    collector.request();
    // Longer than a request waits.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(rounds.length, 1);
  rounds[0]?.end(nothing);
  await eventually("the second round", () => rounds.length === 2);
  rounds[1]?.end(nothing);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(rounds.length, 2);
});

test("a round that fails is logged, and the next one comes at its time", async () => {
  const { collector, rounds, logged } = collectorForTest(50);
  await using _ = collector;
  await eventually("the first round", () => rounds.length === 1);
  rounds[0]?.end(new Error("the disk is gone"));
  await eventually("the next round", () => rounds.length === 2);
  assert.match(logged[0] ?? "", /^error cannot look for unused files and rows/);
  const removed = [{ kind: "template", name: "a", bytes: 1, reason: "unused for 40 days" }];
  rounds[1]?.end({ ...nothing, removed, failed: [{ kind: "workspace", name: "b", error: "EIO" }] });
  await eventually("its report", () => logged.length === 4);
  assert.deepEqual(logged.slice(1), [
    "info collected: template",
    "warn cannot remove unused files and rows: the next round tries again",
    "info collection finished",
  ]);
});

test("the end of the server interrupts a collection and waits for it", async () => {
  const { collector, rounds } = collectorForTest(never, { lingers: true });
  await eventually("the first round", () => rounds.length === 1);
  const [round] = rounds;
  let isEnded = false;
  const ended = collector[Symbol.asyncDispose]().then(() => (isEnded = true));
  assert.ok(round?.signal.aborted);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(isEnded, false);
  collector.request();
  round.end(nothing);
  await ended;
  assert.equal(rounds.length, 1);
});
