import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import { reconciliationOf, type Found, type Reconciliation } from "./reconciliation.ts";

const running = { generation: 1, running: true };
const ended = { generation: 1, running: false };

function found(
  state: SandboxState,
  adopted: Found["adopted"],
  { snapshot = false, ...row }: Partial<NonNullable<Found["row"]>> & { snapshot?: boolean } = {},
): Found {
  return {
    row: { state, generation: 1, elsewhere: false, hidden: false, ephemeral: false, ...row },
    ...(adopted === undefined ? {} : { adopted }),
    snapshot,
  };
}

for (const [state, nothing, machine, disks] of [
  ["creating", "undo", "undo", "undo"],
  ["running", "lost", "run", "boot on use"],
  ["hibernating", "lost", "run", "boot on use"],
  ["hibernated", "leave", "run", "boot on use"],
  ["waking", "hibernated", "run", "hibernated"],
  ["restarting", "lost", "run", "boot on use"],
  ["stopping", "stop", "stop", "stop"],
  ["stopped", "leave", "clean", "clean"],
  ["error", "lost", "run", "keep disks"],
] as const satisfies readonly (readonly [SandboxState, Reconciliation, Reconciliation, Reconciliation])[]) {
  test(`a sandbox left ${state}: ${nothing} when nothing is found, ${machine} with a machine, ${disks} with disks`, () => {
    assert.equal(reconciliationOf(found(state, undefined)), nothing);
    assert.equal(reconciliationOf(found(state, running)), machine);
    assert.equal(reconciliationOf(found(state, ended)), disks);
  });
}

test("a hibernation with a complete snapshot counts as hibernated unless its machine still runs", () => {
  assert.equal(reconciliationOf(found("hibernating", undefined, { snapshot: true })), "hibernated");
  assert.equal(reconciliationOf(found("hibernating", ended, { snapshot: true })), "hibernated");
  assert.equal(reconciliationOf(found("hibernating", running, { snapshot: true })), "run");
  assert.equal(reconciliationOf(found("hibernated", ended, { snapshot: true })), "clean");
});

test("a machine from before the last start of a hibernated sandbox is removed: its snapshot is newer", () => {
  for (const machine of [running, ended]) {
    assert.equal(reconciliationOf(found("hibernated", machine, { generation: 2, snapshot: true })), "clean");
    assert.equal(reconciliationOf(found("hibernated", machine, { generation: 2 })), "clean");
  }
});

test("leftovers of a sandbox that another server owns, or that has no row, are cleaned; its row is not touched", () => {
  for (const state of ["running", "hibernated", "error"] as const) {
    assert.equal(reconciliationOf(found(state, running, { elsewhere: true })), "clean");
    assert.equal(reconciliationOf(found(state, undefined, { elsewhere: true })), "leave");
  }
  assert.equal(reconciliationOf({ adopted: running, snapshot: false }), "clean");
});

test("an interrupted image build is undone in every state", () => {
  for (const state of ["creating", "running", "error"] as const) {
    assert.equal(reconciliationOf(found(state, running, { hidden: true })), "undo");
  }
});

test("an ephemeral sandbox continues while its machine runs and is stopped otherwise", () => {
  for (const state of ["running", "restarting", "hibernated", "error"] as const) {
    assert.equal(reconciliationOf(found(state, running, { ephemeral: true })), "run");
    assert.equal(reconciliationOf(found(state, ended, { ephemeral: true })), "stop");
    assert.equal(reconciliationOf(found(state, undefined, { ephemeral: true })), "stop");
  }
  assert.equal(reconciliationOf(found("creating", undefined, { ephemeral: true })), "undo");
});
