import type { FileDuration, TestResult } from "../test-results.ts";

/** The results of a KVM host that ended early, divided by test file. */
export interface FinishedFiles {
  /** Lines about files that ended without a failed test. */
  readonly results: readonly string[];
  /** Files with a failed test, or without an end: they run again. */
  readonly unfinished: readonly string[];
}

/**
 * Divides the lines of tools/test-results.ts about `files`. A host that fails may let tests fail before it ends, so a
 * file with a failed test counts as unfinished. Pure.
 */
export function finishedFiles(lines: readonly string[], files: readonly string[]): FinishedFiles {
  const read = lines.map((line) => ({ line, result: JSON.parse(line) as TestResult | FileDuration }));
  const failed = new Set(
    read.flatMap(({ result }) => ("outcome" in result && result.outcome === "failed" ? [result.file] : [])),
  );
  const ended = read.flatMap(({ result }) => ("durationMs" in result ? [result.file] : []));
  const finished = new Set(ended.filter((file) => !failed.has(file)));
  return {
    results: read.filter(({ result }) => finished.has(result.file)).map(({ line }) => line),
    unfinished: files.filter((file) => !finished.has(file)),
  };
}
