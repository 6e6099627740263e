import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

/** How one test ended; `run-tests.ts` reads one of these from each line. */
export interface TestResult {
  readonly name: string;
  /** From the current directory. */
  readonly file: string;
  readonly outcome: "passed" | "failed" | "skipped";
  /** Why it was skipped, if it says so. */
  readonly reason?: string;
}

/** A reporter of Node's test runner: a line of JSON for each test. */
export default async function* results(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    const result = resultOf(event);
    if (result !== undefined) yield `${JSON.stringify(result)}\n`;
  }
}

function resultOf({ type, data }: TestEvent): TestResult | undefined {
  if (type !== "test:pass" && type !== "test:fail") return undefined;
  const { name, skip, details } = data;
  const test = { name, file: relative(process.cwd(), data.file ?? "") };
  if (details.type === "suite") {
    // Its tests are counted by themselves. What fails beside them is what it does before and after.
    const fails = type === "test:fail" && failureOf(data.details.error) !== "subtestsFailed";
    return fails ? { ...test, outcome: "failed" } : undefined;
  }
  if (type === "test:fail") return { ...test, outcome: "failed" };
  if (skip === undefined || skip === false) return { ...test, outcome: "passed" };
  return { ...test, outcome: "skipped", ...(typeof skip === "string" ? { reason: skip } : {}) };
}

function failureOf(error: Error): string {
  return "failureType" in error ? String(error.failureType) : "";
}
