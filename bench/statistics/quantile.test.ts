import assert from "node:assert/strict";
import { test } from "node:test";
import { median, quantile } from "./quantile.ts";

test("a quantile of unordered values lies between its neighbours in proportion", () => {
  const values = [40, 10, 30, 20];
  assert.equal(quantile(values, 0), 10);
  assert.equal(quantile(values, 1), 40);
  assert.equal(quantile(values, 0.5), 25);
  assert.equal(quantile(values, 0.9), 37);
  assert.deepEqual(values, [40, 10, 30, 20]);
});

test("every quantile of a single value is that value, and an empty sample has none", () => {
  assert.equal(quantile([7], 0.99), 7);
  assert.ok(Number.isNaN(median([])));
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(quantile([1, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY], 0.75), Number.POSITIVE_INFINITY);
});
