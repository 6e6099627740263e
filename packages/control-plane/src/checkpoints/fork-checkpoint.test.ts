import assert from "node:assert/strict";
import { test } from "node:test";
import { checkpointForTest } from "#testing/rows-for-test.ts";
import { type Fork, forkOf } from "./fork-checkpoint.ts";

test("a fork inherits header rules, and one of another organization's checkpoint the lists alone", () => {
  const headers = { "api.example.com": { "X-Team": "a" } };
  const checkpoint = checkpointForTest({ egress: { deny: ["a.example"], headers } });
  const egressOf = (organizationId: string, fork: Partial<Fork> = {}): unknown =>
    forkOf(checkpoint, { organizationId, fork: { envs: {}, metadata: {}, alias: "", ...fork } }).sandbox.egress;
  assert.deepEqual(egressOf(checkpoint.organizationId), { deny: ["a.example"], headers });
  assert.deepEqual(egressOf("another"), { deny: ["a.example"] });
  const own = { headers: { "b.example.com": { "X-Team": "b" } } };
  assert.deepEqual(egressOf("another", { egress: own }), own);
});
