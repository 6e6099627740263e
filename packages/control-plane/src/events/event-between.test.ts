import assert from "node:assert/strict";
import { test } from "node:test";
import type { LastingState } from "#lifecycle/sandbox-lifecycle.ts";
import { allocationIn, eventBetween } from "./event-between.ts";

const shape = { image: "default", vcpus: 2, memoryMib: 1024, workspaceMib: 20_480 };
const facts = { image: "default", reason: "expired" } as const;

function between(from: LastingState | undefined, to: LastingState, changed: Partial<typeof shape> = {}) {
  const last = from === undefined ? undefined : allocationIn(from, shape);
  return eventBetween(last, allocationIn(to, { ...shape, ...changed }), facts);
}

test("memory counts while a sandbox runs, its disk until it is stopped", () => {
  assert.deepEqual(allocationIn("running", shape), { state: "running", memoryMib: 1024, vcpus: 2, diskMib: 20_480 });
  for (const state of ["creating", "hibernated", "error"] as const) {
    assert.deepEqual(allocationIn(state, shape), { state, memoryMib: 0, vcpus: 0, diskMib: 20_480 });
  }
  assert.deepEqual(allocationIn("stopped", shape), { state: "stopped", memoryMib: 0, vcpus: 0, diskMib: 0 });
});

test("each change of a lasting state is one event", () => {
  const expected: readonly (readonly [LastingState | undefined, LastingState, string])[] = [
    [undefined, "creating", "sandbox.created"],
    ["creating", "running", "sandbox.ready"],
    ["creating", "error", "sandbox.stopped"],
    ["running", "hibernated", "sandbox.hibernated"],
    ["running", "error", "sandbox.stopped"],
    ["running", "stopped", "sandbox.stopped"],
    ["hibernated", "running", "sandbox.resumed"],
    ["hibernated", "error", "sandbox.stopped"],
    ["error", "running", "sandbox.resumed"],
    ["error", "stopped", "sandbox.stopped"],
  ];
  for (const [from, to, type] of expected) assert.equal(between(from, to)?.type, type, `${from} to ${to}`);
});

test("an operation that leaves a sandbox unchanged causes no event", () => {
  for (const state of ["creating", "running", "hibernated", "error"] as const) {
    assert.equal(between(state, state), undefined);
  }
});

test("a crash has its own reason, and any other end has the given reason", () => {
  assert.deepEqual(between("running", "error"), { type: "sandbox.stopped", data: { reason: "crash" } });
  assert.deepEqual(between("running", "stopped"), { type: "sandbox.stopped", data: { reason: "expired" } });
});

test("a new size of a running sandbox is an event, by an operation or by a restart", () => {
  const scaled = { type: "sandbox.scaled", data: { vcpus: 2, memoryMib: 2048 } };
  assert.deepEqual(between("running", "running", { memoryMib: 2048 }), scaled);
  assert.equal(between("running", "running", { vcpus: 4 })?.type, "sandbox.scaled");
  assert.equal(between("hibernated", "hibernated", { memoryMib: 2048 }), undefined);
});
