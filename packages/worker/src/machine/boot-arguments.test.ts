import assert from "node:assert/strict";
import { test } from "node:test";
import { bootArguments } from "./boot-arguments.ts";

test("a guest boots on one processor where its agent can bring others online", () => {
  assert.ok(bootArguments(8, { sparesProcessors: true }).includes("maxcpus=1"));
  // Fewer vCPUs than a machine has today: an earlier agent, which may be unable to bring processors online.
  assert.ok(!bootArguments(2, { sparesProcessors: true }).includes("maxcpus=1"));
  assert.ok(!bootArguments(8, { sparesProcessors: false }).includes("maxcpus=1"));
  assert.ok(!bootArguments(8, undefined).includes("maxcpus=1"));
});
