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

test("a failure leads to the state that loses the least", () => {
  assert.equal(next("hibernating", "failed"), "running");
  assert.equal(next("waking", "failed"), "hibernated");
  assert.equal(next("restarting", "failed"), "error");
});

test("a stopped sandbox stays stopped", () => {
  assert.deepEqual(moves.stopped, {});
});

test("a refused move names the states that allow it", () => {
  assert.throws(
    () => next("stopped", "started"),
    (error) => isSandboxError(error, "wrong_state") && error.details.allowed.join() === "creating,waking,restarting",
  );
});

test("transitional states with a possible machine count against the limit", () => {
  assert.deepEqual(
    passingStates.filter((state) => !activeStates.includes(state as (typeof activeStates)[number])),
    [],
  );
});
