import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { systemClock } from "../../clock.ts";
import { startForTest, type Json, type TestControlPlane, testKey } from "#testing/start-for-test.ts";

/** The two parts of a session, as a browser holds them. */
interface BrowserSession {
  readonly cookie: string;
  readonly csrfToken: string;
}

suite("the dashboard", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let now = Date.now();

  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), "dashboard-test-"));
    stack.defer(() => rm(directory, { recursive: true }));
    await mkdir(join(directory, "assets"));
    await writeFile(join(directory, "index.html"), "<!doctype html><title>the page</title>");
    await writeFile(join(directory, "assets/main-1a2b.js"), "export {};");
    await writeFile(join(directory, "secret.txt"), "secret");
    const dashboardFiles = () => Promise.resolve(directory);
    world = stack.use(await startForTest({ dashboardFiles, tuning: { clock: { ...systemClock, now: () => now } } }));
  });
  after(() => stack.disposeAsync());

  const send = (method: string, path: string, headers: Record<string, string> = {}, body?: object) =>
    fetch(`${world.url}/dashboard${path}`, {
      method,
      headers,
      redirect: "manual",
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });

  async function signIn(body: object): Promise<BrowserSession> {
    const response = await send("POST", "/session", {}, body);
    const text = await response.text();
    assert.equal(response.status, 200, text);
    const [cookie = ""] = (response.headers.get("set-cookie") ?? "").split(";");
    return { cookie, csrfToken: JSON.parse(text).csrfToken };
  }

  const token = ({ cookie, csrfToken }: BrowserSession) =>
    send("POST", "/session/token", { cookie, "x-csrf-token": csrfToken });

  const linkCode = (): string => /#sign-in=([\w-]+)$/.exec(world.plane.createSignInLink())?.[1] ?? "";

  test("the server's own address leads to the page, and so does every path below it", async () => {
    const home = await fetch(world.url, { redirect: "manual" });
    assert.deepEqual([home.status, home.headers.get("location")], [302, "/dashboard"]);
    for (const path of ["", "/", "/sandboxes", "/sandboxes/sb-1/terminal"]) {
      const page = await send("GET", path);
      assert.equal(page.status, 200, path);
      assert.match(await page.text(), /the page/);
    }
  });

  test("a session may create keys, where a token may not: this server has a key of its configuration alone", async () => {
    const session = await signIn({ apiKey: testKey });
    const { token: ofSession } = (await (await token(session)).json()) as Json;
    const [, { token: ofKey }] = await world.ask("POST", "/api/auth/token", {});
    const create = async (by: string) =>
      (await world.ask("POST", "/api/keys", { name: "a" }, { headers: { "x-api-key": by } }))[1].error;
    assert.deepEqual(
      [await create(ofSession), await create(ofKey)],
      [
        "this server accepts the key of OPENSANDBOX_API_KEY alone: without that variable it has others",
        "a token cannot create keys: use an API key",
      ],
    );
  });

  test("the page may load from this origin only, and no script or style of its own stands in it", async () => {
    const { headers } = await send("GET", "");
    const policy = headers.get("content-security-policy") ?? "";
    const sources = new Set(policy.split("; ").flatMap((directive) => directive.split(" ").slice(1)));
    assert.deepEqual(sources, new Set(["'none'", "'self'", "data:", "blob:"]));
    assert.match(policy, /script-src 'self'; style-src 'self';/);
    assert.equal(headers.get("access-control-allow-origin"), null);
  });

  test("a file is served by its name alone, compressed and for good", async () => {
    const file = await send("GET", "/assets/main-1a2b.js");
    assert.equal(await file.text(), "export {};");
    assert.equal(file.headers.get("content-encoding"), "gzip");
    assert.match(file.headers.get("cache-control") ?? "", /immutable/);
    for (const name of ["main.js", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt"]) {
      assert.equal((await send("GET", `/assets/${name}`)).status, 404, name);
    }
  });

  test("a key opens a session, whose cookie scripts and other sites cannot use", async () => {
    const response = await send("POST", "/session", {}, { apiKey: testKey });
    const cookie = response.headers.get("set-cookie") ?? "";
    assert.match(cookie, /; Path=\/dashboard; Max-Age=43200; HttpOnly; SameSite=Strict$/);
    assert.ok(!cookie.includes(testKey));
    const secure = await send("POST", "/session", { "x-forwarded-proto": "https" }, { apiKey: testKey });
    assert.match(secure.headers.get("set-cookie") ?? "", /; Secure$/);
  });

  test("a session yields a token of the API, and the API takes neither its cookie nor its CSRF token", async () => {
    const session = await signIn({ apiKey: testKey });
    const reply = (await (await token(session)).json()) as Json;
    assert.deepEqual([reply.organization.name, reply.scopes.includes("admin:write")], ["default", true]);
    const [status] = await world.ask("GET", "/api/sandboxes", undefined, { headers: { "x-api-key": reply.token } });
    assert.equal(status, 200);
    const [, value = ""] = session.cookie.split("=");
    for (const wrong of [session.csrfToken, value]) {
      const [refused] = await world.ask("GET", "/api/sandboxes", undefined, { headers: { "x-api-key": wrong } });
      assert.equal(refused, 403);
    }
    const ambient = await fetch(`${world.url}/api/sandboxes`, { headers: { cookie: session.cookie } });
    assert.equal(ambient.status, 401);
  });

  test("neither part of a session opens anything without the other", async () => {
    const [first, second] = [await signIn({ apiKey: testKey }), await signIn({ apiKey: testKey })];
    assert.equal((await token({ ...first, csrfToken: "" })).status, 401);
    assert.equal((await token({ ...first, cookie: "" })).status, 401);
    assert.equal((await token({ ...first, csrfToken: second.csrfToken })).status, 401);
    assert.equal((await token({ ...first, cookie: `${first.cookie.slice(0, -1)}x` })).status, 401);
    assert.equal((await token(first)).status, 200);
  });

  test("a closed session opens nothing, and other sessions stay open", async () => {
    const [closed, other] = [await signIn({ apiKey: testKey }), await signIn({ apiKey: testKey })];
    const headers = { cookie: closed.cookie, "x-csrf-token": closed.csrfToken };
    const reply = await send("DELETE", "/session", headers);
    assert.equal(reply.status, 204);
    assert.match(reply.headers.get("set-cookie") ?? "", /=; Path=\/dashboard; Max-Age=0;/);
    assert.equal((await token(closed)).status, 401);
    assert.equal((await token(other)).status, 200);
  });

  test("a session ends after twelve hours", async () => {
    const session = await signIn({ apiKey: testKey });
    now += 12 * 3_600_000;
    assert.equal((await token(session)).status, 401);
  });

  test("a wrong key and a token open no session", async () => {
    assert.equal((await send("POST", "/session", {}, { apiKey: "wrong" })).status, 403);
    assert.equal((await send("POST", "/session", {}, {})).status, 401);
    const reply = (await (await token(await signIn({ apiKey: testKey }))).json()) as Json;
    assert.equal((await send("POST", "/session", {}, { apiKey: reply.token })).status, 403);
  });

  test("a sign-in link works once, and for fifteen minutes", async () => {
    const code = linkCode();
    const session = await signIn({ link: code });
    assert.equal((await token(session)).status, 200);
    assert.equal((await send("POST", "/session", {}, { link: code })).status, 403);
    const late = linkCode();
    now += 15 * 60_000;
    assert.equal((await send("POST", "/session", {}, { link: late })).status, 403);
  });

  test("signing in is in the audit log, and what the session does as well", async () => {
    const reply = (await (await token(await signIn({ link: linkCode() }))).json()) as Json;
    await world.ask("POST", "/api/sandboxes", {}, { headers: { "x-api-key": reply.token } });
    const [, { entries }] = await world.ask("GET", "/api/audit");
    const found = entries.slice(0, 2).map(({ action, actor }: Json) => [action, actor]);
    assert.deepEqual(found, [
      ["createSandbox", "a sign-in link, in the dashboard, by a token"],
      ["signIn", "a sign-in link"],
    ]);
  });
});

test("a server without a dashboard says so", async () => {
  await using world = await startForTest();
  const page = await fetch(`${world.url}/dashboard`);
  assert.deepEqual([page.status, ((await page.json()) as Json).code], [404, "not_found"]);
});
