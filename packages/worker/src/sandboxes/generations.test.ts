import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { Generations } from "./generations.ts";

test("an older generation of a sandbox is refused; the same one and a newer one start", () => {
  const [id, other] = [newSandboxId(), newSandboxId()];
  const generations = new Generations();
  generations.start(id, 2);
  generations.start(id, 2);
  generations.start(other, 1);
  assert.throws(
    () => generations.start(id, 1),
    (error) => isSandboxError(error, "wrong_state") && error.details.state === "generation 2",
  );
  generations.start(id, 3);
  assert.throws(() => generations.start(id, 2), /generation 3 has started/);
});

test("only the sandboxes that started most recently are remembered", () => {
  const ids = [newSandboxId(), newSandboxId(), newSandboxId()] as const;
  const generations = new Generations(2);
  for (const id of ids) generations.start(id, 2);
  generations.start(ids[0], 1);
  assert.throws(() => generations.start(ids[2], 1), /generation 2/);
});
