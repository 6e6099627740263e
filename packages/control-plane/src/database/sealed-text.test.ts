import assert from "node:assert/strict";
import { test } from "node:test";
import { openText, sealText } from "./sealed-text.ts";

const key = "ab".repeat(32);

test("a sealed text opens with its key in its row only, and holds nothing of the text", () => {
  const sealed = sealText("whsec_secret", key, "row-1");
  assert.equal(openText(sealed, key, "row-1"), "whsec_secret");
  assert.ok(!Buffer.from(sealed.slice(3), "base64").includes("secret"));
  assert.notEqual(sealText("whsec_secret", key, "row-1"), sealed);
  assert.throws(() => openText(sealed, key, "row-2"));
  assert.throws(() => openText(sealed, "cd".repeat(32), "row-1"));
  const changed = Buffer.from(sealed.slice(3), "base64");
  changed[15] = (changed[15] ?? 0) ^ 1;
  assert.throws(() => openText(`v1:${changed.toString("base64")}`, key, "row-1"));
});
