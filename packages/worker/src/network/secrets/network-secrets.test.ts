import assert from "node:assert/strict";
import { test } from "node:test";
import { parseHeaderRules } from "@opensandbox/wire/header-rules.ts";
import { makeTestAuthority } from "../testing/test-authority.ts";
import { NetworkSecrets } from "./network-secrets.ts";

const rules = parseHeaderRules({ "api.example.com": { "x-team": "a" } });

test("the services get the headers of one host, and nothing for a host of no rule", async () => {
  const authority = await makeTestAuthority("the sandbox's own");
  const secrets = new NetworkSecrets({ authority, secrets: [] }, "");
  const intercepted = await secrets.intercept("api.example.com", rules);
  assert.deepEqual("headers" in intercepted && intercepted.headers, [["x-team", "a"]]);
  for (const name of ["evil.example", "example.com", "a.api.example.com"]) {
    assert.deepEqual(await secrets.intercept(name, rules), { refusal: "no secret and no header is for this host" });
  }
});

test("a worker without the sandbox's authority lets no connection of a rule's host through", async () => {
  for (const secrets of [undefined, { secrets: [] }]) {
    const refused = await new NetworkSecrets(secrets, "").intercept("api.example.com", rules);
    assert.ok("refusal" in refused);
  }
});
