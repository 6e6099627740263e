import assert from "node:assert/strict";
import { test } from "node:test";
import { figureOf } from "../figures.ts";
import { isMissed, judge } from "./judge.ts";
import type { FigureResult, Measured } from "./result.ts";

function samples(values: readonly number[]): Measured[] {
  return values.map((value, index) => ({ round: index + 1, value }));
}

function wake(ours: readonly number[], raw: readonly number[]): FigureResult {
  return { name: "wake", ...figureOf("wake"), ours: samples(ours), raw: samples(raw) };
}

const tcg = { accelerator: "tcg" };

test("a ratio within its target is ok, and one beyond it is missed", () => {
  const good = judge(wake([11, 12, 11, 12], [10, 10, 10, 10]), tcg);
  assert.deepEqual(good.verdicts, [{ target: "<= 1.3 x floor", met: true, sure: true }]);
  const bad = judge(wake([20, 21, 20, 21], [10, 10, 10, 10]), tcg);
  assert.deepEqual(bad.verdicts, [{ target: "<= 1.3 x floor", met: false, sure: true }]);
  assert.deepEqual([isMissed(good), isMissed(bad)], [false, true]);
});

test("values that scatter across the target are reported as unsure and do not count as a miss", () => {
  const judged = judge(wake([5, 30, 6, 28, 14, 13], [10, 10, 10, 10, 10, 10]), tcg);
  assert.equal(judged.verdicts[0]?.sure, false);
  assert.equal(isMissed(judged), false);
});

test("promises in milliseconds apply to hosts with KVM alone", () => {
  const figure = wake([70, 70, 70], [60, 60, 60]);
  assert.equal(judge(figure, tcg).verdicts.length, 1);
  assert.deepEqual(judge(figure, { accelerator: "kvm" }).verdicts[1], { target: "<= 60 ms", met: false, sure: true });
});

test("where more is better the target is a minimum, and the tail is the low end", () => {
  const figure: FigureResult = {
    ...{ name: "file-up", ...figureOf("file-up") },
    ...{ ours: samples([90, 95, 100]), raw: samples([100, 100, 100]) },
  };
  const judged = judge(figure, tcg);
  assert.deepEqual(judged.verdicts, [{ target: ">= 0.87 x floor", met: true, sure: true }]);
  assert.ok((judged.quantiles?.p99 ?? 100) < 91);
});

test("a figure that only the floor has is not judged", () => {
  const judged = judge(wake([], [10]), tcg);
  assert.deepEqual([judged.verdicts, judged.quantiles, judged.floor], [[], undefined, 10]);
});
