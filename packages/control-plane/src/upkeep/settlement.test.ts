import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import { settlementOf, type Found, type Settlement } from "./settlement.ts";

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
] as const satisfies readonly (readonly [SandboxState, Settlement, Settlement, Settlement])[]) {
  test(`a sandbox left ${state}: ${nothing} with nothing there, ${machine} with a machine, ${disks} with disks`, () => {
    assert.equal(settlementOf(found(state, undefined)), nothing);
    assert.equal(settlementOf(found(state, running)), machine);
    assert.equal(settlementOf(found(state, ended)), disks);
  });
}

test("a hibernation whose snapshot was finished is one, unless the machine still runs", () => {
  assert.equal(settlementOf(found("hibernating", undefined, { snapshot: true })), "hibernated");
  assert.equal(settlementOf(found("hibernating", ended, { snapshot: true })), "hibernated");
  assert.equal(settlementOf(found("hibernating", running, { snapshot: true })), "run");
  assert.equal(settlementOf(found("hibernated", ended, { snapshot: true })), "clean");
});

test("what another process has by now, or nobody knows of, is cleaned up here and left alone there", () => {
  for (const state of ["running", "hibernated", "error"] as const) {
    assert.equal(settlementOf(found(state, running, { elsewhere: true })), "clean");
    assert.equal(settlementOf(found(state, undefined, { elsewhere: true })), "leave");
  }
  assert.equal(settlementOf({ adopted: running, snapshot: false }), "clean");
});

test("an image's build that nobody goes on with is undone, in whatever state", () => {
  for (const state of ["creating", "running", "error"] as const) {
    assert.equal(settlementOf(found(state, running, { hidden: true })), "undo");
  }
});

test("what is ephemeral goes on if it runs, and else has ended with its server", () => {
  for (const state of ["running", "restarting", "hibernated", "error"] as const) {
    assert.equal(settlementOf(found(state, running, { ephemeral: true })), "run");
    assert.equal(settlementOf(found(state, ended, { ephemeral: true })), "stop");
    assert.equal(settlementOf(found(state, undefined, { ephemeral: true })), "stop");
  }
  assert.equal(settlementOf(found("creating", undefined, { ephemeral: true })), "undo");
});
