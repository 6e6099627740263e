import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { afterEach, beforeEach, suite, test } from "node:test";
import { Sandbox, SecretStore } from "@opencomputer/sdk";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Scope } from "@opensandbox/wire/public/scopes.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { openDatabase } from "#database/database.ts";
import { ApiKeyStore } from "#organizations/api-key-store.ts";
import { defaultOrganizationId } from "#organizations/api-keys.ts";
import { startAfterCrash, startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

const masterKeys = ["a1".repeat(32)];
const value = "s3cret-value-of-the-test";

suite("sandboxes with secrets", () => {
  let stack: AsyncDisposableStack;
  let world: TestControlPlane;
  let client: { readonly apiUrl: string; readonly apiKey: string };
  let storeId: string;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    world = stack.use(await startForTest({ masterKeys }));
    client = { apiUrl: world.url, apiKey: testKey };
    ({ id: storeId } = await SecretStore.create({ ...client, name: "ci", egressAllowlist: ["*.example.com"] }));
    await SecretStore.setSecret(storeId, "TOKEN", value, client);
  });
  afterEach(() => stack.disposeAsync());

  function last(): StartSandbox {
    const request = world.worker.started.at(-1);
    assert.ok(request);
    return request;
  }

  test("the published client's sandbox sees sealed texts, and its worker gets value, hosts and an authority", async () => {
    await SecretStore.setSecret(storeId, "NARROW", "n", { ...client, allowedHosts: ["a.example.com", "b.example"] });
    const sandbox = await Sandbox.create({
      ...client,
      secretStore: "ci",
      envs: { NARROW: "the caller's own", A: "b" },
    });
    const { envs, secrets } = last();
    assert.match(envs["TOKEN"] ?? "", /^osb_sealed_[0-9a-f]{32}$/);
    assert.equal(envs["NARROW"], "the caller's own");
    assert.equal(envs["A"], "b");
    assert.deepEqual(
      secrets?.secrets.find(({ name }) => name === "TOKEN"),
      {
        ...{ name: "TOKEN", sealed: envs["TOKEN"], value, hosts: ["*.example.com"] },
      },
    );
    assert.deepEqual(secrets?.secrets.find(({ name }) => name === "NARROW")?.hosts, ["a.example.com"]);
    assert.equal(new X509Certificate(secrets?.authority?.certificate ?? "").ca, true);
    assert.deepEqual(await sandbox.getAllowedHosts(), {
      ...{ sandboxID: sandbox.sandboxId, secretStore: "ci", egressAllowlist: ["*.example.com"] },
      perSecretAllowedHosts: { NARROW: ["a.example.com"], TOKEN: ["*.example.com"] },
    });
    const [, shown] = await world.ask("GET", `/api/sandboxes/${sandbox.sandboxId}`);
    assert.ok(!JSON.stringify([shown, world.logged]).includes(value));
    assert.ok(!JSON.stringify([shown, world.logged]).includes("PRIVATE KEY"));
  });

  test("a new value, other hosts and a deletion reach running sandboxes at once, under the same sealed text", async () => {
    const id = await world.create({ secretStore: "ci" });
    const before = last().secrets?.secrets[0]?.sealed;
    const present = () => world.worker.host.machine(id).request.secrets?.secrets;
    const set = await world.ask("PUT", `/api/secret-stores/${storeId}/secrets/TOKEN`, { value: "new" });
    assert.deepEqual(set, [200, { name: "TOKEN", status: "set", refreshed: 1 }]);
    assert.deepEqual(present()?.[0], { name: "TOKEN", sealed: before, value: "new", hosts: ["*.example.com"] });
    await SecretStore.update(storeId, { ...client, egressAllowlist: ["one.example"] });
    assert.deepEqual(present()?.[0]?.hosts, ["one.example"]);
    world.worker.onSetSecrets = () => {
      throw new Error("out of reach");
    };
    const [, failed] = await world.ask("PUT", `/api/secret-stores/${storeId}/secrets/TOKEN`, { value: "newer" });
    assert.deepEqual(failed.refreshErrors, [`${id}: out of reach`]);
    world.worker.onSetSecrets = () => {};
    await SecretStore.delete(storeId, client);
    assert.deepEqual(present(), []);
  });

  test("a wake and a fork keep sealed texts and authority; a store of a fork takes precedence over the inherited one", async () => {
    const id = await world.create({ secretStore: "ci" });
    const { secrets, envs } = last();
    await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
    await world.ask("POST", `/api/sandboxes/${id}/wake`, {});
    assert.deepEqual(last().secrets, secrets);
    assert.deepEqual(last().envs, envs);

    const [, { id: checkpoint }] = await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "one" });
    const fork = (body: object) => world.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, body);
    assert.equal((await fork({}))[0], 201);
    assert.deepEqual(last().secrets, secrets);
    const { id: second } = await SecretStore.create({ ...client, name: "second" });
    await SecretStore.setSecret(second, "TOKEN", "of the second", { ...client, allowedHosts: ["b.example"] });
    await SecretStore.setSecret(second, "MORE", "more", client);
    const [, { sandboxID: forked }] = await fork({ secretStore: "second" });
    const layered = last().secrets;
    assert.deepEqual(layered?.authority, secrets?.authority);
    assert.deepEqual(
      layered?.secrets.map(({ name, value: layeredValue }) => [name, layeredValue]),
      [
        ["TOKEN", "of the second"],
        ["MORE", "more"],
      ],
    );
    const [, hosts] = await world.ask("GET", `/api/sandboxes/${forked}/allowed-hosts`);
    assert.deepEqual([hosts.secretStore, hosts.baseSecretStore], ["second", "ci"]);
  });

  test("kill with deleteSecretStore deletes the sandbox's own store, also when it is gone already", async () => {
    const sandbox = await Sandbox.create({ ...client, secretStore: "ci" });
    const other = await Sandbox.create({ ...client, secretStore: "ci" });
    await sandbox.kill({ deleteSecretStore: true });
    await assert.rejects(SecretStore.get(storeId, client), /404/);
    assert.deepEqual(world.worker.host.machine(other.sandboxId as SandboxId).request.secrets?.secrets, []);
    await other.kill({ deleteSecretStore: true });
    const without = await Sandbox.create(client);
    await without.kill({ deleteSecretStore: true });
  });

  test("unknown stores are refused, and so is every store where secrets cannot be put into requests", async () => {
    assert.deepEqual((await world.ask("POST", "/api/sandboxes", { secretStore: "nothing" }))[0], 404);
    const { secrets: _, ...description } = world.worker.description;
    world.worker.description = { ...description, network: { mode: "user", reason: "not root" } };
    const [status, { error }] = await world.ask("POST", "/api/sandboxes", { secretStore: "ci" });
    assert.equal(status, 501);
    assert.match(error, /cannot put secrets into requests.*not root/);
    assert.equal((await world.ask("POST", "/api/sandboxes", {}))[0], 201);
  });

  test("a server that takes over a machine gives its worker the secrets, which no worker stores", async () => {
    const id = await world.create({ secretStore: "ci" });
    const { secrets } = last();
    await using second = await startAfterCrash(world, { masterKeys });
    assert.equal((await second.get(id)).status, "running");
    await eventually(
      "the secrets are there",
      () => second.worker.host.machine(id).request.secrets?.authority !== undefined,
    );
    assert.deepEqual(second.worker.host.machine(id).request.secrets, secrets);
  });

  test("a key needs secrets:read to use a store, and secrets:write to delete it with a sandbox", async () => {
    await using stored = await startForTest({ storedKeys: true, masterKeys });
    await using database = await openDatabase(stored.database);
    const keys = new ApiKeyStore(database);
    const keyWith = async (...scopes: readonly Scope[]): Promise<RequestInit> => {
      const wanted = { organizationId: defaultOrganizationId, name: scopes.join(), scopes };
      const { key } = await keys.create(wanted, new Date());
      return { headers: { "x-api-key": key } };
    };
    const admin = await keyWith("secrets:write", "sandboxes:write");
    const reader = await keyWith("secrets:read", "sandboxes:write");
    const plain = await keyWith("sandboxes:write");
    await stored.ask("POST", "/api/secret-stores", { name: "ci" }, admin);
    assert.equal((await stored.ask("POST", "/api/sandboxes", { secretStore: "ci" }, plain))[0], 403);
    const [status, { sandboxID: id }] = await stored.ask("POST", "/api/sandboxes", { secretStore: "ci" }, reader);
    assert.equal(status, 201);
    assert.equal(
      (await stored.ask("DELETE", `/api/sandboxes/${id}?deleteSecretStore=true`, undefined, reader))[0],
      403,
    );
    assert.equal((await stored.ask("DELETE", `/api/sandboxes/${id}?deleteSecretStore=true`, undefined, admin))[0], 204);
  });
});
