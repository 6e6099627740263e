import assert from "node:assert/strict";
import { test } from "node:test";
import type { SecretStore } from "@opensandbox/sdk";
import { type PartialClient, runForTest } from "../../testing/test-host.ts";

const at = new Date().toISOString();
const ci: SecretStore = { id: "s-1", organizationId: "org", name: "ci", hosts: [], createdAt: at, updatedAt: at };

test("secret set reads the value from standard input and warns about a secret without hosts", async () => {
  const asked: unknown[] = [];
  const client: PartialClient = {
    secrets: {
      listStores: async () => [ci],
      async set(storeId, secret) {
        asked.push([storeId, secret]);
        return { refreshed: 0, errors: [] };
      },
    },
  };
  const { stdout, stderr } = await runForTest(["secret", "set", "ci", "TOKEN"], { client, stdin: "s3cret\n" });
  assert.equal(stdout, "set TOKEN in ci\n");
  assert.match(stderr, /it is sent nowhere/);
  await runForTest(["secret", "set", "s-1", "TOKEN", "--hosts", "a.example, b.example"], { client, stdin: "x" });
  assert.deepEqual(asked, [
    ["s-1", { name: "TOKEN", value: "s3cret" }],
    ["s-1", { name: "TOKEN", value: "x", hosts: ["a.example", "b.example"] }],
  ]);
});

test("secret store names an unknown store and changes a known one", async () => {
  const asked: unknown[] = [];
  const client: PartialClient = {
    secrets: {
      listStores: async () => [ci],
      async updateStore(storeId, changes) {
        asked.push([storeId, changes]);
        return { ...ci, ...changes };
      },
    },
  };
  const unknown = await runForTest(["secret", "store", "rm", "nothing"], { client });
  assert.match(unknown.stderr, /secret store "nothing" not found/);
  assert.notEqual(unknown.code, 0);
  await runForTest(["secret", "store", "update", "ci", "--hosts", ""], { client });
  assert.deepEqual(asked, [["s-1", { hosts: [] }]]);
});
