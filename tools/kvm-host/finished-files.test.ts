import assert from "node:assert/strict";
import { test } from "node:test";
import type { FileDuration, TestResult } from "../test-results.ts";
import { finishedFiles } from "./finished-files.ts";

const line = (result: TestResult | FileDuration): string => JSON.stringify(result);
const passed = (file: string): string => line({ name: "a test", file, suites: [], outcome: "passed" });
const failed = (file: string): string => line({ name: "a test", file, suites: [], outcome: "failed" });
const ended = (file: string): string => line({ file, durationMs: 1 });

test("a file that ended without a failure keeps its results, and all others run again in their order", () => {
  const files = ["a.vm.test.ts", "b.vm.test.ts", "c.vm.test.ts", "d.vm.test.ts"];
  const [a = "", b = "", c = ""] = files;
  const lines = [passed(a), ended(a), passed(b), failed(b), ended(b), passed(c)];
  assert.deepEqual(finishedFiles(lines, files), { results: [passed(a), ended(a)], unfinished: files.slice(1) });
});

test("a file whose failed test stands in another file runs again", () => {
  const file = "a.vm.test.ts";
  const lines = [passed("contract.ts"), failed("contract.ts"), ended(file)];
  assert.deepEqual(finishedFiles(lines, [file]), { results: [], unfinished: [file] });
});

test("without results every file runs again, and with all of them none does", () => {
  const file = "a.vm.test.ts";
  assert.deepEqual(finishedFiles([], [file]), { results: [], unfinished: [file] });
  const lines = [passed(file), ended(file)];
  assert.deepEqual(finishedFiles(lines, [file]), { results: lines, unfinished: [] });
});
