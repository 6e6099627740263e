import assert from "node:assert/strict";
import { test } from "node:test";
import { ratioOf, type Sample } from "./ratio.ts";

function rounds(values: readonly number[]): Sample[] {
  return values.map((value, round) => ({ round, value }));
}

test("noise shared by both sides of a round leaves the interval narrow", () => {
  const noise = [1, 3, 2, 5, 1.5, 4, 2.5, 6];
  const ratio = ratioOf(rounds(noise.map((n) => 20 * n)), rounds(noise.map((n) => 10 * n)));
  assert.deepEqual(ratio, { value: 2, low: 2, high: 2 });
});

test("noise of one side makes the interval wide; the same samples give the same interval", () => {
  const ours = rounds([10, 40, 12, 35, 11, 38, 14, 30]);
  const floor = rounds([10, 10, 10, 10, 10, 10, 10, 10]);
  const ratio = ratioOf(ours, floor);
  assert.ok(ratio !== undefined);
  assert.equal(ratio.value, 2.2);
  assert.ok(ratio.low < 1.5 && ratio.high > 3, `${ratio.low} to ${ratio.high}`);
  assert.deepEqual(ratioOf(ours, floor), ratio);
});

test("the values of a round are drawn together", () => {
  const ours = [1, 1, 1, 2, 2, 2].map((round) => ({ round, value: round * 10 }));
  const floor = [1, 2].map((round) => ({ round, value: round }));
  assert.equal(ratioOf(ours, floor)?.low, 10);
  assert.equal(ratioOf(ours, floor)?.high, 10);
});

test("sides without a common round are drawn independently, and a missing side gives no ratio", () => {
  const ratio = ratioOf([{ round: 1, value: 6 }], [{ round: 2, value: 3 }]);
  assert.deepEqual(ratio, { value: 2, low: 2, high: 2 });
  assert.equal(ratioOf(rounds([1]), []), undefined);
});
