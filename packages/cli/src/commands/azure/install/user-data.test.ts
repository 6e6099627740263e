import assert from "node:assert/strict";
import { test } from "node:test";
import { userData } from "./user-data.ts";

const source = { url: "https://example.com/it's.tar.gz", sha256: "0".repeat(64) };

test("the first boot verifies the archive before anything in it runs", () => {
  const text = userData(source, ["--port", "443"]);
  const [, command = ""] = /^ {2}- (.*)$/m.exec(text) ?? [];
  const [shell, option, line = ""] = JSON.parse(command) as string[];
  assert.deepEqual([shell, option], ["sh", "-c"]);
  assert.ok(line.indexOf("sha256sum") < line.indexOf("setup-azure-host.sh"));
  assert.ok(line.endsWith("'/var/tmp/opensandbox.tar.gz' '--port' '443'"), line);
  assert.ok(!/ ; /.test(line));
});

test("without a source, the first boot only fetches packages", () => {
  assert.doesNotMatch(userData(undefined, []), /runcmd/);
});
