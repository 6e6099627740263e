import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, suite, test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import { allScopes, parseScopes, routeScopes, type Scope } from "@opensandbox/wire/public/scopes.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { openDatabase } from "#database/database.ts";
import { ApiKeyStore } from "#organizations/api-key-store.ts";
import { defaultOrganizationId } from "#organizations/api-keys.ts";
import { OrganizationStore } from "#organizations/organization-store.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";
import { WebSocket } from "ws";

interface Operation {
  readonly operationId: string;
  readonly security: readonly { readonly apiKey?: readonly Scope[] }[];
}

const document = JSON.parse(
  readFileSync(new URL("../../../../openapi/control-plane.json", import.meta.url), "utf8"),
) as { paths: Record<string, Record<string, Operation>> };

const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);

/** Every scope, to read and to write. */
const everyScope = allScopes.flatMap((scope) => [scope, scope.replace(":write", ":read") as Scope]);

suite("scopes", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let keys: ApiKeyStore;
  let organizations: OrganizationStore;

  before(async () => {
    world = stack.use(await startForTest({ storedKeys: true, tuning: { revokedMs: 20 } }));
    const database = stack.use(await openDatabase(world.database));
    keys = new ApiKeyStore(database);
    organizations = new OrganizationStore(database);
  });
  after(() => stack.disposeAsync());

  async function keyWith(...scopes: readonly Scope[]): Promise<string> {
    const wanted = { organizationId: defaultOrganizationId, name: "test", scopes };
    return (await keys.create(wanted, new Date())).key;
  }

  async function call(key: string, method: string, path: string, body?: object): Promise<[number, Json]> {
    const signal = AbortSignal.timeout(20_000);
    const response = await world.call(method, path, body, { headers: { "x-api-key": key }, signal });
    const text = await response.text();
    return [response.status, text.startsWith("{") ? JSON.parse(text) : text];
  }

  test("every route with a key has a scope, and every scope belongs to a route", () => {
    const withKey = publicRoutes.filter(({ access }) => access === "key").map(({ name }) => name);
    assert.deepEqual(Object.keys(routeScopes).toSorted(), withKey.toSorted());
    const writes = publicRoutes.filter(({ method, access }) => access === "key" && !["GET", "HEAD"].includes(method));
    const writing = publicRoutes.filter(
      ({ method, name }) => method === "GET" && routeScopes[name]?.endsWith(":write"),
    );
    assert.deepEqual(
      writing.map(({ name }) => name),
      ["streamExec", "attachSession", "attachTerminal", "openPort", "getWebhookSecret"],
    );
    const reading = writes.filter(({ name }) => routeScopes[name]?.endsWith(":read")).map(({ name }) => name);
    assert.deepEqual(reading, ["refreshSandboxToken", "signDownload", "createToken"]);
  });

  for (const { path, method, operation } of operations) {
    const needed = operation.security[0]?.apiKey?.[0];
    if (needed === undefined) continue;
    test(`${method} ${path} (${operation.operationId}) refuses a key that lacks ${needed}, and no other`, async () => {
      const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => (name === "id" ? newSandboxId() : "8080"));
      const granting = [needed, needed.replace(":read", ":write") as Scope];
      const others = everyScope.filter((scope) => !granting.includes(scope));
      const [refused, reply] = await call(await keyWith(...others), method, filled);
      assert.equal(refused, 403);
      if (method !== "HEAD") {
        assert.deepEqual([reply.code, reply.error], ["permission_denied", `the API key lacks the scope ${needed}`]);
      }
      for (const scope of granting) {
        const [status] = await call(await keyWith(scope), method, filled);
        assert.notEqual(status, 403, scope);
      }
    });
  }

  test("scopes are read as people write them", () => {
    assert.deepEqual(parseScopes(["sandboxes", "images:read"]), ["images:read", "sandboxes:write"]);
    for (const words of [[], ["sandbox"], ["sandboxes:all"], ["sandboxes:read:write"], [""]]) {
      assert.throws(() => parseScopes(words), { code: "invalid_argument" });
    }
  });

  test("a revoked key opens no new call, and its open streams end", async () => {
    const key = await keyWith("sandboxes:write");
    const [, { sandboxID: id }] = await call(key, "POST", "/api/sandboxes", {});
    const socket = new WebSocket(`${world.url.replace("http", "ws")}/api/sandboxes/${id}/exec/stream`, {
      headers: { "x-api-key": key },
    });
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    await keys.revoke(key.slice(0, 12), new Date());
    await within("the stream ends", closed);
    const [status, reply] = await call(key, "GET", "/api/sandboxes");
    assert.deepEqual([status, reply.error], [403, "the API key was revoked"]);
  });

  test("a key makes and revokes keys of its organization, with no scope that it lacks, and shows each once", async () => {
    const { id: organizationId } = await organizations.create("keys", {}, new Date());
    const admin = (
      await keys.create(
        { organizationId, name: "admin", scopes: ["admin:write", "images:read", "sandboxes:read"] },
        new Date(),
      )
    ).key;
    const wanted = { name: "ci", scopes: ["images:read"], expiresInDays: 30 };
    const [status, made] = await call(admin, "POST", "/api/keys", wanted);
    assert.equal(status, 201);
    const { key, ...rest } = made;
    assert.match(key, /^osb_[0-9a-f]{64}$/);
    assert.deepEqual([rest.name, rest.scopes, rest.current], ["ci", ["images:read"], false]);
    assert.equal(Math.round((Date.parse(rest.expiresAt) - Date.parse(rest.createdAt)) / 86_400_000), 30);
    assert.equal((await call(key, "GET", "/api/images"))[0], 200);

    const response = await world.call("GET", "/api/keys", undefined, { headers: { "x-api-key": admin } });
    const text = await response.text();
    assert.ok(!text.includes(key));
    const listed = (JSON.parse(text) as Json[]).map(({ name, current }) => [name, current]);
    assert.deepEqual(listed, [
      ["admin", true],
      ["ci", false],
    ]);

    const [refused, { error }] = await call(admin, "POST", "/api/keys", { name: "more", scopes: ["sandboxes"] });
    assert.deepEqual([refused, error], [403, "the API key lacks the scope sandboxes:write, so it cannot give it"]);
    for (const [body, message] of [
      [{}, "name must have 1 to 255 characters"],
      [
        { name: "a", scopes: ["all"] },
        '"all" is not a scope: write one of sandboxes, images, secrets, admin, followed by :read or :write',
      ],
      [{ name: "a", expiresInDays: 0 }, "expiresInDays must be a whole number from 1 to 3650"],
    ] as const) {
      assert.deepEqual((await call(admin, "POST", "/api/keys", body))[1].error, message);
    }
    const [, { token }] = await call(admin, "POST", "/api/auth/token", {});
    const [byToken, { error: why }] = await call(token, "POST", "/api/keys", { name: "outlives" });
    assert.deepEqual([byToken, why], [403, "a token cannot create keys: use an API key"]);

    const [revoked, { revokedAt }] = await call(admin, "DELETE", `/api/keys/${rest.id}`);
    assert.equal(revoked, 200);
    assert.equal((await call(admin, "DELETE", `/api/keys/${rest.id}`))[1].revokedAt, revokedAt, "it keeps its time");
    assert.equal((await call(key, "GET", "/api/images"))[1].error, "the API key was revoked");
  });

  test("an organization has limits of its own", async () => {
    const { id } = await organizations.create("small", { maxSandboxes: 1, maxMemoryMib: 2048 }, new Date());
    const { key } = await keys.create({ organizationId: id, name: "", scopes: allScopes }, new Date());
    assert.equal((await call(key, "POST", "/api/sandboxes", { memoryMB: 4096 }))[0], 429);
    assert.equal((await call(key, "POST", "/api/sandboxes", {}))[0], 201);
    const [status, reply] = await call(key, "POST", "/api/sandboxes", {});
    assert.deepEqual([status, reply.code], [429, "quota_exceeded"]);
    await organizations.setLimits(id, { maxSandboxes: 2 });
    assert.equal((await call(key, "POST", "/api/sandboxes", {}))[0], 201);
  });

  test("every call that changes something is in the audit log once, refused ones too, and reads are not", async () => {
    const { id: organizationId } = await organizations.create("audited", {}, new Date());
    const keyOf = async (name: string, ...scopes: readonly Scope[]): Promise<string> =>
      (await keys.create({ organizationId, name, scopes }, new Date())).key;
    const admin = await keyOf("root", ...allScopes);
    const reader = await keyOf("reader", "sandboxes:read");
    const [, { sandboxID: id }] = await call(admin, "POST", "/api/sandboxes", {});
    await call(admin, "GET", `/api/sandboxes/${id}`);
    await call(reader, "DELETE", `/api/sandboxes/${id}?api_key=secret`);
    await call(admin, "POST", `/api/sandboxes/${newSandboxId()}/hibernate`);
    const socket = new WebSocket(`${world.url.replace("http", "ws")}/api/sandboxes/${id}/exec/stream`, {
      headers: { "x-api-key": admin },
    });
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    socket.close();
    const events = { headers: { "x-api-key": admin, accept: "text/event-stream" } };
    const unknown = await world.call("POST", "/api/sandboxes", { templateID: "no-such-image" }, events);
    await unknown.text();
    const image = { base: "base", steps: [{ type: "run", args: { commands: ["false"] } }] };
    const failed = await world.call("POST", "/api/snapshots", { name: "broken", image }, events);
    assert.match(await failed.text(), /event: error/);
    const entries = await eventually("the entries are there", async () => {
      const [, page] = await call(admin, "GET", "/api/audit");
      return page.entries.length === 6 && page.entries;
    });
    const seen = entries.map(({ action, status, actor, resource }: Json) => [
      action,
      status,
      actor.split(" ")[0],
      resource,
    ]);
    assert.deepEqual(seen.toReversed(), [
      ["createSandbox", 201, "root", id],
      ["deleteSandbox", 403, "reader", undefined],
      ["hibernateSandbox", 404, "root", undefined],
      ["streamExec", 101, "root", undefined],
      ["createSandbox", 404, "root", undefined],
      ["createSnapshot", 400, "root", undefined],
    ]);
    assert.deepEqual(
      [entries[4].path, entries[4].method, entries[4].address, entries[4].requestID.slice(0, 4)],
      [`/api/sandboxes/${id}`, "DELETE", "127.0.0.1", "req-"],
    );
    const [, first] = await call(admin, "GET", "/api/audit?limit=5");
    const [, second] = await call(admin, "GET", `/api/audit?limit=5&cursor=${first.nextCursor}`);
    assert.deepEqual([...first.entries, ...second.entries], entries);
    assert.equal(second.nextCursor, undefined);
    for (const query of ["limit=0", "limit=1001", "limit=a", "cursor=1"]) {
      assert.equal((await call(admin, "GET", `/api/audit?${query}`))[0], 400, query);
    }
  });
});
