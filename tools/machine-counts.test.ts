import assert from "node:assert/strict";
import { test } from "node:test";
import { type CountedTest, machineCounts } from "./machine-counts.ts";
import results from "./test-results.ts";

const passed = { suites: [], outcome: "passed" } as const;

test("tests in machines are counted by the kind of machine that ran them", () => {
  const tests: CountedTest[] = [
    { ...passed, file: "tests/kvm.vm.test.ts", name: "files are written", underKvm: true },
    { ...passed, file: "tests/kvm.vm.test.ts", name: "over vsock", underKvm: true, outcome: "failed" },
    { ...passed, file: "tests/kvm.vm.test.ts", name: "skipped", underKvm: true, outcome: "skipped" },
    { ...passed, file: "packages/worker/src/hypervisor/firecracker/firecracker.vm.test.ts", name: "boots" },
    { ...passed, file: "a.vm.test.ts", suites: ["the agent channel over vsock"], name: "a file is read" },
    { ...passed, file: "a.test.ts", name: "a vsock address is parsed" },
  ];
  assert.equal(machineCounts(tests), "2 ran under KVM, 2 over vsock, 1 under Firecracker");
});

test("a result names the suites around its test", async () => {
  const event = (type: string, name: string, nesting: number, kind = "test") => ({
    type,
    data: { name, nesting, file: `${process.cwd()}/a.test.ts`, details: { type: kind } },
  });
  async function* events() {
    yield* [event("test:start", "outer", 0), event("test:start", "inner", 1), event("test:start", "one", 2)];
    yield* [event("test:pass", "one", 2), event("test:pass", "inner", 1, "suite"), event("test:start", "two", 1)];
    yield await Promise.resolve(event("test:pass", "two", 1));
  }
  const found: unknown[] = [];
  for await (const line of results(events() as never)) found.push(JSON.parse(line));
  assert.deepEqual(found, [
    { name: "one", file: "a.test.ts", suites: ["outer", "inner"], outcome: "passed" },
    { name: "two", file: "a.test.ts", suites: ["outer"], outcome: "passed" },
  ]);
});
