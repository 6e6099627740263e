import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "./errors.ts";
import { commonHosts, matchesHost, parseSecretHosts } from "./secret-hosts.ts";

test("hosts of secrets are names and names below a name", () => {
  assert.deepEqual(parseSecretHosts("hosts", [" API.example.com. ", "*.example.org", "api.example.com"]), [
    "api.example.com",
    "*.example.org",
  ]);
  for (const wrong of [
    "*",
    "*.com",
    "1.2.3.4",
    "https://a.example",
    "a.example:443",
    "a.example/path",
    "",
    "a*.example",
  ]) {
    assert.throws(
      () => parseSecretHosts("hosts", [wrong]),
      (error) => isSandboxError(error, "invalid_argument"),
      wrong,
    );
  }
});

test("a name matches itself, and a star the names below it alone", () => {
  assert.ok(matchesHost(["api.example.com"], "api.example.com"));
  assert.ok(!matchesHost(["api.example.com"], "api.example.com.evil.example"));
  assert.ok(!matchesHost(["api.example.com"], "evil-api.example.com"));
  assert.ok(matchesHost(["*.example.com"], "a.b.example.com"));
  assert.ok(!matchesHost(["*.example.com"], "example.com"));
  assert.ok(!matchesHost(["*.example.com"], "notexample.com"));
  assert.ok(!matchesHost([], "example.com"));
});

test("a secret may be sent to the hosts that it and its store both allow", () => {
  assert.deepEqual(commonHosts([], []), []);
  assert.deepEqual(commonHosts(["a.example.com"], []), ["a.example.com"]);
  assert.deepEqual(commonHosts([], ["a.example.com"]), ["a.example.com"]);
  assert.deepEqual(commonHosts(["*.example.com"], ["a.example.com", "b.example"]), ["a.example.com"]);
  assert.deepEqual(commonHosts(["*.b.example.com"], ["*.example.com"]), ["*.b.example.com"]);
  assert.deepEqual(commonHosts(["*.example.com"], ["example.com"]), []);
  assert.deepEqual(commonHosts(["a.example"], ["b.example"]), []);
});
