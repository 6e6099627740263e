import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { activeStates, moves, next, passingStates, type Move, type SandboxState } from "./sandbox-lifecycle.ts";

const states = Object.keys(moves) as SandboxState[];

test("every move leads to a state of the table", () => {
  for (const to of Object.values(moves).flatMap((from) => Object.values(from))) assert.ok(states.includes(to), to);
});

test("a life: created, started, hibernated, woken, restarted, crashed, restarted, deleted, stopped", () => {
  const life: readonly (readonly [Move, SandboxState])[] = [
    ["started", "running"],
    ["hibernate", "hibernating"],
    ["stored", "hibernated"],
    ["wake", "waking"],
    ["started", "running"],
    ["restart", "restarting"],
    ["started", "running"],
    ["crashed", "error"],
    ["restart", "restarting"],
    ["started", "running"],
    ["delete", "stopping"],
    ["stopped", "stopped"],
  ];
  let state: SandboxState = "creating";
  for (const [move, to] of life) assert.equal((state = next(state, move)), to);
});

test("a failure never loses more than it must", () => {
  assert.equal(next("hibernating", "failed"), "running");
  assert.equal(next("waking", "failed"), "hibernated");
  assert.equal(next("restarting", "failed"), "error");
});

test("what is stopped stays stopped", () => {
  assert.deepEqual(moves.stopped, {});
});

test("a move that is not allowed says where it would be", () => {
  assert.throws(
    () => next("stopped", "started"),
    (error) => isSandboxError(error, "wrong_state") && error.details.allowed.join() === "creating,waking,restarting",
  );
});

test("what passes counts against the limit, as long as it may have a machine", () => {
  assert.deepEqual(
    passingStates.filter((state) => !activeStates.includes(state as (typeof activeStates)[number])),
    [],
  );
});
