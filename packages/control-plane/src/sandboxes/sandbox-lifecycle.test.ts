import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { activeStates, moves, next, type SandboxState } from "./sandbox-lifecycle.ts";

const states = Object.keys(moves) as SandboxState[];

test("every move leads to a state of the table", () => {
  for (const to of Object.values(moves).flatMap((from) => Object.values(from))) assert.ok(states.includes(to), to);
});

test("a life: created, started, deleted, stopped", () => {
  assert.equal(next("creating", "started"), "running");
  assert.equal(next("running", "delete"), "stopping");
  assert.equal(next("stopping", "stopped"), "stopped");
});

test("what is stopped stays stopped", () => {
  assert.deepEqual(moves.stopped, {});
});

test("a move that is not allowed says where it would be", () => {
  assert.throws(
    () => next("stopped", "started"),
    (error) => isSandboxError(error, "wrong_state") && error.details.allowed.join() === "creating",
  );
});

test("every state that a dead worker can leave behind can be given up", () => {
  for (const state of activeStates) assert.equal(next(state, "abandoned"), "stopped");
});
