import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { installScript } from "./install-script.ts";

const source = readFileSync(join(import.meta.dirname, "install.sh"), "utf8");
const archive = { url: "https://example.com/releases", version: "1.2.3", archive: "a.tar.gz", sha256: "0".repeat(64) };

test("the installer knows the address and the hash of its archive", () => {
  const script = installScript(source, archive);
  for (const [name, value] of Object.entries(archive)) assert.match(script, new RegExp(`^${name}=${value}$`, "m"));
  assert.equal(script.split("\n").length, source.split("\n").length);
});

test("a value that could run in the shell is refused", () => {
  for (const url of ["https://x/$(id)", "https://x/`id`", "https://x/;id", "https://x/ id", ""]) {
    assert.throws(() => installScript(source, { ...archive, url }), /install\.sh cannot have the url/);
  }
});

test("a template without a line for the hash is refused", () => {
  assert.throws(() => installScript(source.replace("sha256=\n", ""), archive), /no line for the sha256/);
});
