import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

type TestSummary = Extract<TestEvent, { readonly type: "test:summary" }>["data"];

/** How one test ended; `run-tests.ts` reads one of these from each line. */
export interface TestResult {
  readonly name: string;
  /** Relative to the current directory. */
  readonly file: string;
  /** The names of the suites and tests around it, the outermost first. */
  readonly suites: readonly string[];
  readonly outcome: "passed" | "failed" | "skipped";
  /** The reason for a skip, if the test gives one. */
  readonly reason?: string;
  /** What a failed test or hook threw: its first and last lines. */
  readonly error?: readonly string[];
}

/** How long a test file took; `run-tests.ts` reads one of these from a line as well. */
export interface FileDuration {
  /** Relative to the current directory. */
  readonly file: string;
  readonly durationMs: number;
}

/** A message rarely needs more: its first lines say what was compared, its last ones how a program ended. */
const errorLines = { first: 5, last: 8 };

/** A reporter for Node's test runner: one line of JSON for each test, and one for each file that has a process. */
export default async function* results(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  // The runner reports the starts and ends of tests in the order in which they are defined.
  const path: string[] = [];
  for await (const event of events) {
    if (event.type === "test:start") path.splice(event.data.nesting, Infinity, event.data.name);
    const result = event.type === "test:summary" ? durationOf(event.data) : resultOf(event, path);
    if (result !== undefined) yield `${JSON.stringify(result)}\n`;
  }
}

function resultOf({ type, data }: TestEvent, path: readonly string[]): TestResult | undefined {
  if (type !== "test:pass" && type !== "test:fail") return undefined;
  const { name, skip, details, nesting } = data;
  const test = { name, file: relative(process.cwd(), data.file ?? ""), suites: path.slice(0, nesting) };
  const isSkipped = skip !== undefined && skip !== false;
  // Counts the tests of a suite one by one. A suite that is skipped as a whole counts once, since none of its tests
  // runs.
  if (details.type === "suite" && !isSkipped) {
    // A suite that fails without a failed test has a failed hook.
    const fails = type === "test:fail" && failureOf(data.details.error) !== "subtestsFailed";
    return fails ? { ...test, outcome: "failed", error: linesOf(data.details.error) } : undefined;
  }
  if (type === "test:fail") return { ...test, outcome: "failed", error: linesOf(data.details.error) };
  if (!isSkipped) return { ...test, outcome: "passed" };
  return { ...test, outcome: "skipped", ...(typeof skip === "string" ? { reason: skip } : {}) };
}

/** The summary of a whole run names no file. */
function durationOf({ file, duration_ms: durationMs }: TestSummary): FileDuration | undefined {
  return file === undefined ? undefined : { file: relative(process.cwd(), file), durationMs };
}

function failureOf(error: Error): string {
  return "failureType" in error ? String(error.failureType) : "";
}

/** The runner wraps what was thrown. */
function linesOf({ message, cause }: Error): readonly string[] {
  const thrown = cause instanceof Error ? cause.message : message;
  const lines = thrown.split("\n").filter(Boolean);
  const { first, last } = errorLines;
  return lines.length <= first + last ? lines : [...lines.slice(0, first), "...", ...lines.slice(-last)];
}
