import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "./errors.ts";
import { newSandboxId, parseSandboxId } from "./ids.ts";

test("a new sandbox id has 64 random bits; ids of earlier versions stay valid", () => {
  assert.match(newSandboxId(), /^sb-[0-9a-f]{16}$/);
  for (const id of [newSandboxId(), "sb-0a1b2c3d"]) assert.equal(parseSandboxId(id), id);
});

test("a text that is not an id names no sandbox", () => {
  for (const text of ["", "sb-", "sb-0a1b2c3", "sb-0a1b2c3d4e", "sb-0A1B2C3D", "sb-0a1b2c3d\n", "x sb-0a1b2c3d"]) {
    assert.throws(
      () => parseSandboxId(text),
      (error) => isSandboxError(error, "not_found"),
      text,
    );
  }
});
