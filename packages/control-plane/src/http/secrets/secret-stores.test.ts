import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { SecretStore } from "@opencomputer/sdk";
import { openDatabase } from "#database/database.ts";
import { startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

const firstKey = "a1".repeat(32);
const secondKey = "b2".repeat(32);
const value = "s3cret-value-of-the-test";

suite("secret stores", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let database: string;

  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), "secrets-"));
    stack.defer(() => rm(directory, { recursive: true }));
    database = join(directory, "control-plane.db");
    world = stack.use(await startForTest({ database, masterKeys: [firstKey] }));
  });
  after(() => stack.disposeAsync());

  test("the published client creates, changes, lists and deletes stores and secrets", async () => {
    const client = { apiUrl: world.url, apiKey: testKey };
    const made = await SecretStore.create({ ...client, name: "ci", egressAllowlist: ["API.example.com"] });
    assert.deepEqual(made.egressAllowlist, ["api.example.com"]);
    assert.deepEqual(await SecretStore.get(made.id, client), made);
    assert.deepEqual(await SecretStore.list(client), [made]);
    const changed = await SecretStore.update(made.id, { ...client, name: "ci-2", egressAllowlist: ["*.example.com"] });
    assert.equal(changed.name, "ci-2");

    await SecretStore.setSecret(made.id, "TOKEN", value, { ...client, allowedHosts: ["a.example.com"] });
    await SecretStore.setSecret(made.id, "OTHER", value, client);
    const [other, token] = await SecretStore.listSecrets(made.id, client);
    assert.deepEqual([other?.name, other?.allowedHosts], ["OTHER", []]);
    assert.deepEqual([token?.name, token?.allowedHosts], ["TOKEN", ["a.example.com"]]);
    await SecretStore.setSecret(made.id, "TOKEN", `${value}-2`, client);
    const [, again] = await SecretStore.listSecrets(made.id, client);
    assert.equal(again?.id, token?.id, "a new value keeps the secret");
    assert.deepEqual(again?.allowedHosts, ["a.example.com"], "hosts that are not given stay");

    await SecretStore.deleteSecret(made.id, "OTHER", client);
    assert.equal((await SecretStore.listSecrets(made.id, client)).length, 1);
    await SecretStore.delete(made.id, client);
    assert.deepEqual(await SecretStore.list(client), []);
    await assert.rejects(SecretStore.get(made.id, client), /404/);
  });

  test("wrong names, hosts, values and ids are refused", async () => {
    const [, { id }] = await world.ask("POST", "/api/secret-stores", { name: "wrong" });
    const ask = (method: string, path: string, body?: object) => world.ask(method, `/api/secret-stores${path}`, body);
    assert.equal((await ask("POST", "", { name: "wrong" }))[0], 409);
    assert.equal((await ask("POST", "", { name: "  " }))[0], 400);
    assert.equal((await ask("POST", "", { name: "a", egressAllowlist: ["10.0.0.1"] }))[0], 400);
    assert.deepEqual(await ask("GET", "/not-a-uuid"), [400, { error: "invalid store ID", code: "invalid_argument" }]);
    assert.equal((await ask("GET", "/00000000-0000-4000-8000-000000000000"))[1].error, "secret store not found");
    assert.equal((await ask("PUT", `/${id}/secrets/A`, {}))[0], 400);
    assert.equal((await ask("PUT", `/${id}/secrets/A`, { value: "a\nb" }))[0], 400);
    assert.equal((await ask("PUT", `/${id}/secrets/A-B`, { value }))[0], 400);
    assert.equal((await ask("PUT", `/${id}/secrets/A`, { value, allowedHosts: ["*"] }))[0], 400);
    assert.equal((await ask("DELETE", `/${id}/secrets/A`))[0], 404);
  });

  test("neither the database file, nor a reply, nor the log contains a value", async () => {
    const [, { id }] = await world.ask("POST", "/api/secret-stores", { name: "hidden" });
    const path = `/api/secret-stores/${id}/secrets/TOKEN`;
    const [, set] = await world.ask("PUT", path, { value });
    const [, listed] = await world.ask("GET", `/api/secret-stores/${id}/secrets`);
    assert.ok(!JSON.stringify([set, listed, world.logged]).includes(value));
    const files = ["", "-wal"].map((suffix) => readFileSync(`${database}${suffix}`));
    assert.ok(!Buffer.concat(files).includes(value));
    assert.ok(Buffer.concat(files).includes("TOKEN"), "the name is there, so the search would have found the value");
  });

  test("a new master key encrypts every secret again, and a missing one is named", async () => {
    const [, { id }] = await world.ask("POST", "/api/secret-stores", { name: "rotated" });
    await world.ask("PUT", `/api/secret-stores/${id}/secrets/TOKEN`, { value });
    const encrypted = async (): Promise<string | undefined> => {
      await using opened = await openDatabase(database);
      const row = await opened.selectFrom("secrets").select("value").where("store_id", "=", id).executeTakeFirst();
      return row?.value;
    };
    const earlier = await encrypted();
    {
      await using rotated = await startForTest({ database, masterKeys: [secondKey, firstKey] });
      assert.ok(rotated.logged.some(({ message }) => message === "secrets were encrypted with a new master key"));
    }
    assert.notEqual(await encrypted(), earlier);
    {
      await using behind = await startForTest({ database, masterKeys: [firstKey] });
      assert.ok(behind.logged.some(({ message }) => message.startsWith("secrets need a master key")));
    }
    await using without = await startForTest({ database });
    const [status, { error }] = await without.ask("POST", "/api/secret-stores", { name: "none" });
    assert.deepEqual([status, error], [503, "secret stores are not configured: this server has no master key"]);
  });
});
