import type { TestResult } from "./test-results.ts";

export interface CountedTest extends TestResult {
  /** The test ran on a host whose machines run under KVM. */
  readonly underKvm?: boolean;
}

/**
 * How many tests ran on each kind of machine, skipped ones excluded. A test of real machines ran over vsock or under
 * Firecracker when its file, one of its suites or its name has that word.
 */
export function machineCounts(tests: readonly CountedTest[]): string {
  const ran = tests.filter(({ outcome, file }) => outcome !== "skipped" && file.endsWith(".vm.test.ts"));
  const named = (word: RegExp): number =>
    ran.filter(({ file, suites, name }) => word.test([file, ...suites, name].join(" "))).length;
  const underKvm = ran.filter((test) => test.underKvm === true).length;
  return `${underKvm} ran under KVM, ${named(/\bvsock\b/i)} over vsock, ${named(/\bfirecracker\b/i)} under Firecracker`;
}
