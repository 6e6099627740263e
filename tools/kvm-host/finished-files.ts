import type { FileDuration, TestResult } from "../test-results.ts";

/** The results of a KVM host that ended early, divided by test file. */
export interface FinishedFiles {
  /** Lines about files that ended without a failed test. */
  readonly results: readonly string[];
  /** Files with a failed test, or without an end: they run again. */
  readonly unfinished: readonly string[];
}

/**
 * Divides the lines of tools/test-results.ts about `files`, which run one after another: the duration of a file follows
 * its tests, some of which name another file as theirs. A host that fails may let tests fail before it ends, so a file
 * with a failed test counts as unfinished. Pure.
 */
export function finishedFiles(lines: readonly string[], files: readonly string[]): FinishedFiles {
  const results: string[] = [];
  const finished = new Set<string>();
  let ofFile: string[] = [];
  let failed = false;
  for (const line of lines) {
    const result = JSON.parse(line) as TestResult | FileDuration;
    ofFile.push(line);
    if ("outcome" in result) {
      failed ||= result.outcome === "failed";
      continue;
    }
    if (!failed) {
      results.push(...ofFile);
      finished.add(result.file);
    }
    ofFile = [];
    failed = false;
  }
  return { results, unfinished: files.filter((file) => !finished.has(file)) };
}
