import assert from "node:assert/strict";
import { test } from "node:test";
import { age, bytes, duration, messageOf, pairs, words } from "./format.ts";

test("sizes are shown in the largest unit that leaves a whole one", () => {
  const sizes = [0, 1, 1023, 1024, 1536, 200 * 2 ** 20, 20 * 2 ** 30, 3 * 2 ** 50];
  assert.deepEqual(sizes.map(bytes), ["0 B", "1 B", "1023 B", "1 KiB", "1.5 KiB", "200 MiB", "20 GiB", "3072 TiB"]);
});

test("durations are shown in their largest unit, and never below zero", () => {
  const seconds = [-5, 0, 59, 60, 3599, 3600, 86_399, 86_400];
  assert.deepEqual(seconds.map(duration), ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d"]);
  assert.equal(age("2026-01-01T00:00:00.000Z", Date.parse("2026-01-01T02:30:00.000Z")), "2 h");
});

test("lines of KEY=VALUE become a record, and another line is named", () => {
  assert.deepEqual(pairs("A=1\n\n B = x=y\n"), { A: "1", B: " x=y" });
  assert.throws(() => pairs("A=1\nnothing"), /"nothing" is not KEY=VALUE/);
});

test("words are separated by commas, blanks and lines", () => {
  assert.deepEqual(words(" pypi.org,\n*.example.com  1.1.1.1 "), ["pypi.org", "*.example.com", "1.1.1.1"]);
});

test("a message begins with a capital letter", () => {
  assert.equal(messageOf(new Error("sandbox not found")), "Sandbox not found");
});
