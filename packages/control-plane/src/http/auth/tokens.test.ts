import assert from "node:assert/strict";
import { afterEach, beforeEach, suite, test } from "node:test";
import { openDatabase } from "#database/database.ts";
import { ApiKeyStore } from "#organizations/api-key-store.ts";
import { defaultOrganizationId } from "#organizations/api-keys.ts";
import type { Scope } from "@opensandbox/wire/public/scopes.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";

suite("short-lived tokens", () => {
  let stack: AsyncDisposableStack;
  let world: TestControlPlane;
  let keys: ApiKeyStore;
  let clock: ManualClock;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    clock = new ManualClock();
    world = stack.use(await startForTest({ storedKeys: true, tuning: { clock } }));
    keys = new ApiKeyStore(stack.use(await openDatabase(world.database)));
  });
  afterEach(() => stack.disposeAsync());

  async function keyWith(...scopes: readonly Scope[]): Promise<string> {
    return (await keys.create({ organizationId: defaultOrganizationId, name: "ci", scopes }, new Date(clock.now())))
      .key;
  }

  const ask = async (credential: string, method: string, path: string, body?: object): Promise<[number, Json]> =>
    await world.ask(method, path, body, { headers: { "x-api-key": credential } });

  test("a token stands for its key until it expires, as X-API-Key, bearer or in the query", async () => {
    const key = await keyWith("sandboxes:write", "admin:read");
    const [status, { token, expires_in: seconds }] = await ask(key, "POST", "/api/auth/token");
    assert.deepEqual([status, seconds], [200, 600]);
    assert.equal(token.split(".").length, 3);
    const [created, { sandboxID: id }] = await ask(token, "POST", "/api/sandboxes", {});
    assert.equal(created, 201);
    const bearer = await fetch(`${world.url}/api/sandboxes/${id}`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(bearer.status, 200);
    assert.equal((await fetch(`${world.url}/api/sandboxes/${id}?api_key=${token}`)).status, 200);
    clock.advance(599);
    assert.equal((await ask(token, "GET", "/api/sandboxes"))[0], 200);
    clock.advance(2);
    const [expired, { error }] = await ask(token, "GET", "/api/sandboxes");
    assert.deepEqual([expired, error], [403, "the token has expired: get a new one"]);
  });

  test("a token of a sandbox is accepted by the routes of this sandbox alone", async () => {
    const key = await keyWith("sandboxes:write", "admin:write", "images:write");
    const [[, { sandboxID: id }], [, { sandboxID: other }]] = [
      await ask(key, "POST", "/api/sandboxes", {}),
      await ask(key, "POST", "/api/sandboxes", {}),
    ];
    const [status, { token, expires_in: seconds }] = await ask(key, "POST", `/api/sandboxes/${id}/token/refresh`, {});
    assert.deepEqual([status, seconds], [200, 3600]);
    assert.equal((await ask(token, "GET", `/api/sandboxes/${id}`))[0], 200);
    assert.equal((await ask(token, "POST", `/api/sandboxes/${id}/exec/run`, { cmd: "true" }))[0], 200);
    const [refused, { error }] = await ask(token, "GET", `/api/sandboxes/${other}`);
    assert.deepEqual([refused, error], [403, `the token is for the sandbox ${id} alone`]);
    for (const [method, path] of [
      ["GET", "/api/sandboxes"],
      ["POST", "/api/sandboxes"],
      ["GET", "/api/sessions"],
      ["GET", "/api/images"],
      ["GET", "/api/audit"],
      ["POST", "/api/auth/token"],
      ["POST", `/api/sandboxes/${id}/token/refresh`],
      ["GET", "/v2/sandboxes"],
      ["GET", `/sandboxes/${id}`],
    ] as const) {
      assert.equal((await ask(token, method, path, method === "POST" ? {} : undefined))[0], 403, `${method} ${path}`);
    }
    assert.equal((await ask(key, "POST", `/api/sandboxes/${id}/token/refresh`, { expires_in: 100_000 }))[0], 400);
    const reader = await keyWith("sandboxes:read");
    const [, { token: reading }] = await ask(reader, "POST", `/api/sandboxes/${id}/token/refresh`, {});
    assert.equal((await ask(reading, "POST", `/api/sandboxes/${id}/exec/run`, { cmd: "true" }))[0], 403);
    clock.advance(3601);
    assert.equal((await ask(token, "GET", `/api/sandboxes/${id}`))[0], 403);
  });

  test("a token has no more scopes than its key, and makes no tokens", async () => {
    const key = await keyWith("sandboxes:write", "images:write");
    const [, { token }] = await ask(key, "POST", "/api/auth/token", { scopes: ["sandboxes:read"], expires_in: 60 });
    assert.equal((await ask(token, "GET", "/api/sandboxes"))[0], 200);
    assert.equal((await ask(token, "POST", "/api/sandboxes", {}))[0], 403);
    assert.equal((await ask(token, "GET", "/api/images"))[0], 403);
    assert.equal((await ask(token, "POST", "/api/auth/token"))[1].error, "a token cannot make tokens: use an API key");
    assert.equal((await ask(key, "POST", "/api/auth/token", { scopes: ["admin"] }))[0], 403);
    assert.equal((await ask(key, "POST", "/api/auth/token", { scopes: ["everything"] }))[0], 400);
    assert.equal((await ask(key, "POST", "/api/auth/token", { expires_in: 86_400 }))[0], 400);
  });

  test("a token ends with the revocation of its key", async () => {
    const { key, apiKey } = await keys.create(
      { organizationId: defaultOrganizationId, name: "ci", scopes: ["sandboxes:write"] },
      new Date(clock.now()),
    );
    const [, { token }] = await ask(key, "POST", "/api/auth/token");
    await keys.revoke(apiKey.id, new Date(clock.now()));
    const [status, { error }] = await ask(token, "GET", "/api/sandboxes");
    assert.equal(status, 403);
    assert.match(error, /was revoked/);
  });

  test("a token that was changed, has no signature or another algorithm is not accepted", async () => {
    const key = await keyWith("sandboxes:read");
    const [, { token }] = await ask(key, "POST", "/api/auth/token");
    const [header = "", claims = "", signature = ""] = (token as string).split(".");
    const open = JSON.parse(Buffer.from(claims, "base64url").toString()) as object;
    const forged = Buffer.from(JSON.stringify({ ...open, scope: "admin:write" })).toString("base64url");
    const none = Buffer.from(JSON.stringify({ alg: "none", typ: "JWT" })).toString("base64url");
    for (const wrong of [
      `${header}.${forged}.${signature}`,
      `${none}.${claims}.`,
      `${header}.${claims}.`,
      `${header}.${claims}.${signature.slice(1)}`,
      `${token}.x`,
    ]) {
      assert.deepEqual((await ask(wrong, "GET", "/api/sandboxes"))[1].error, "invalid API key", wrong);
    }
  });
});

test("an organization above its rate is told when to try again, and others are not", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ storedKeys: true, callsPerSecond: 2, tuning: { clock } });
  await using database = await openDatabase(world.database);
  await database.insertInto("organizations").values({ id: "org-other", name: "other", created_at: 0 }).execute();
  const keys = new ApiKeyStore(database);
  const init = async (organizationId: string): Promise<RequestInit> => {
    const { key } = await keys.create({ organizationId, name: "a", scopes: ["sandboxes:read"] }, new Date(0));
    return { headers: { "x-api-key": key } };
  };
  const [one, other] = [await init(defaultOrganizationId), await init("org-other")];
  const status = async (as: RequestInit): Promise<number> =>
    (await world.call("GET", "/api/sandboxes", undefined, as)).status;
  for (let call = 0; call < 10; call += 1) assert.equal(await status(one), 200);
  const refused = await world.call("GET", "/api/sandboxes", undefined, one);
  assert.equal(refused.status, 429);
  assert.equal(refused.headers.get("retry-after"), "1");
  assert.match(((await refused.json()) as { error: string }).error, /more than 2 calls a second/);
  assert.equal(await status(other), 200);
  clock.advance(1);
  assert.equal(await status(one), 200);
});
