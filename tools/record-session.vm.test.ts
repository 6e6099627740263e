import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { recordSession, sessionFile } from "./record-session.ts";

test("docs/first-session.md shows what a first session prints", async () => {
  assert.equal(await recordSession(), readFileSync(sessionFile, "utf8"));
});
