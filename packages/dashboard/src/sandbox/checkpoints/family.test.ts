import assert from "node:assert/strict";
import { test } from "node:test";
import type { Checkpoint, SandboxInfo } from "@opensandbox/sdk";
import { type Family, familyOf } from "./family.ts";

const sandbox = (id: string, fromCheckpointId?: string): SandboxInfo =>
  ({ id, ...(fromCheckpointId === undefined ? {} : { fromCheckpointId }) }) as SandboxInfo;
const checkpoint = (id: string, sandboxId: string, minute: number): Checkpoint =>
  ({ id, sandboxId, createdAt: new Date(minute * 60_000).toISOString() }) as Checkpoint;

/** A family as text: sandboxes with their checkpoints in brackets, a deleted sandbox in parentheses. */
function drawn({ sandboxId, sandbox: known, checkpoints }: Family): string {
  const inner = checkpoints.map((each) => [each.checkpoint.id, ...each.forks.map(drawn)].join(" "));
  return `${known === undefined ? `(${sandboxId})` : sandboxId}[${inner.join(", ")}]`;
}

test("a fork shows the family from its oldest ancestor, newest checkpoints first", () => {
  const sandboxes = [sandbox("a"), sandbox("b", "a1"), sandbox("c", "b1"), sandbox("other")];
  const checkpoints = [
    checkpoint("a1", "a", 1),
    checkpoint("a2", "a", 2),
    checkpoint("b1", "b", 3),
    checkpoint("o1", "other", 4),
  ];
  for (const id of ["a", "b", "c"]) {
    assert.equal(drawn(familyOf(id, sandboxes, checkpoints)), "a[a2, a1 b[b1 c[]]]");
  }
});

test("a deleted ancestor is the root as long as its checkpoint remains", () => {
  const checkpoints = [checkpoint("a1", "a", 1)];
  assert.equal(drawn(familyOf("b", [sandbox("b", "a1")], checkpoints)), "(a)[a1 b[]]");
  assert.equal(drawn(familyOf("b", [sandbox("b", "a1")], [])), "b[]");
});
