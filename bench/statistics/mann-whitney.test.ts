import assert from "node:assert/strict";
import { test } from "node:test";
import { array, assert as check, integer, property } from "fast-check";
import { mannWhitney } from "./mann-whitney.ts";

function near(actual: number, expected: number, tolerance: number): void {
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected}`);
}

// Ages of men and women with a diagnosis. R's wilcox.test and SciPy's mannwhitneyu give the same values.
const men = [19, 22, 16, 29, 24];
const women = [20, 11, 17, 12];

test("a known pair of small samples gets its exact probability", () => {
  const { u, p } = mannWhitney(men, women);
  assert.equal(u, 17);
  near(p, 14 / 126, 1e-12);
});

test("tied values use the normal distribution with its corrections", () => {
  // Without the tie, the normal distribution gives p = 0.1113 for the same pair.
  const { u, p } = mannWhitney([19, 22, 16, 29, 24], [19, 11, 17, 12]);
  assert.equal(u, 17.5);
  near(p, 0.0852, 2e-3);
});

test("large samples: a clear difference is found, noise is not", () => {
  const low = Array.from({ length: 40 }, (_, index) => index);
  const high = low.map((value) => value + 30.5);
  assert.ok(mannWhitney(low, high).p < 1e-8);
  const mixed = low.map((value) => value + 0.5);
  assert.ok(mannWhitney(low, mixed).p > 0.5);
});

test("identical and empty samples show no difference", () => {
  assert.equal(mannWhitney([5, 5, 5], [5, 5, 5]).p, 1);
  assert.equal(mannWhitney([], [1]).p, 1);
});

test("completely separate samples have the smallest possible probability", () => {
  // 2 of the 20 orders of three and three values are as extreme.
  near(mannWhitney([1, 2, 3], [4, 5, 6]).p, 2 / 20, 1e-12);
});

test("swapping the samples, or adding a constant to all values, changes nothing", () => {
  const sample = array(integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 30 });
  check(
    property(sample, sample, integer({ min: -100, max: 100 }), (a, b, shift) => {
      const one = mannWhitney(a, b);
      const other = mannWhitney(b, a);
      near(one.p, other.p, 1e-9);
      assert.equal(one.u + other.u, a.length * b.length);
      const moved = mannWhitney(
        a.map((value) => value + shift),
        b.map((value) => value + shift),
      );
      assert.deepEqual(moved, one);
      assert.ok(one.p > 0 && one.p <= 1);
    }),
  );
});
