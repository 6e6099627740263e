import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "#testing/manual-clock.ts";
import { UnknownNames } from "./unknown-names.ts";

const sandbox = "sb-0000000000000001";
const other = "sb-0000000000000002";

test("an address that tries many names is refused for a minute, except for sandboxes in use", () => {
  const clock = new ManualClock();
  const names = new UnknownNames(clock);
  names.hit(other);
  for (let n = 0; n < 59; n++) names.miss("203.0.113.1");
  assert.equal(names.isRefused("203.0.113.1", sandbox), false);
  names.miss("203.0.113.1");
  assert.equal(names.isRefused("203.0.113.1", sandbox), true);
  assert.equal(names.isRefused("203.0.113.1", other), false);
  assert.equal(names.isRefused("203.0.113.2", sandbox), false);
  clock.advance(60);
  assert.equal(names.isRefused("203.0.113.1", sandbox), false);
});

test("the addresses of one IPv6 network count together", () => {
  const names = new UnknownNames(new ManualClock());
  for (let n = 0; n < 60; n++) names.miss(`2001:db8::1:${n.toString(16)}`);
  assert.equal(names.isRefused("2001:db8:0:0:ffff::1", sandbox), true);
  assert.equal(names.isRefused("2001:db8:0:1::1", sandbox), false);
});

test("a million addresses take bounded memory", () => {
  const names = new UnknownNames(new ManualClock());
  const before = process.memoryUsage().heapUsed;
  for (let n = 0; n < 1_000_000; n++) names.miss(`${n}`);
  assert.ok(process.memoryUsage().heapUsed - before < 200 * 2 ** 20);
  for (let n = 0; n < 60; n++) names.miss("203.0.113.1");
  assert.equal(names.isRefused("203.0.113.1", sandbox), true);
});
