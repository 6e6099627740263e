import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer, request, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, suite, test } from "node:test";
import { eventOf, eventually } from "@opensandbox/wire/testing/eventually.ts";
import { openDatabase } from "#database/database.ts";
import { type DnsServer, startDnsServer } from "#testing/dns-server.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { type Json, startForTest, type TestControlPlane } from "#testing/start-for-test.ts";

const hour = 3600;

// A name server on this host answers for the domains.
suite("a custom domain", () => {
  let stack: AsyncDisposableStack;
  let world: TestControlPlane;
  let dns: DnsServer;
  let clock: ManualClock;
  let server: Server;
  let port: number;
  let id: string;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    dns = stack.use(await startDnsServer());
    clock = new ManualClock();
    world = stack.use(
      await startForTest({ customDomains: { resolveTxt: dns.resolveTxt }, tuning: { clock, sweepMs: 3_600_000 } }),
    );
    server = createServer((_request, response) => response.end("the sandbox")).listen(0, "127.0.0.1");
    stack.defer(() => void server.close());
    stack.defer(() => server.closeAllConnections());
    await eventOf(server, "listening");
    port = (server.address() as AddressInfo).port;
    id = await world.create({ timeout: 0 });
  });
  afterEach(() => stack.disposeAsync());

  const claim = async (domain = "app.example.com", sandbox = id): Promise<[number, Json]> =>
    await world.ask("POST", `/api/sandboxes/${sandbox}/preview`, { port, domain });

  const shown = async (): Promise<Json> => (await world.ask("GET", `/api/sandboxes/${id}/preview`))[1][0];

  /** Makes the record that the refusal names. Returns its value. */
  async function prove(domain = "app.example.com"): Promise<string> {
    const [status, { error }] = await claim(domain);
    assert.equal(status, 400);
    const [, name = "", value = ""] = /DNS record (\S+) TXT "([^"]+)"/.exec(error) ?? [];
    dns.records.set(name, ["v=spf1 -all", value]);
    return value;
  }

  async function visit(host = "app.example.com"): Promise<string> {
    const visiting = request(`${world.url}/page`, { headers: { host, connection: "close" }, agent: false }).end();
    const [response] = (await eventOf(visiting, "response")) as [IncomingMessage];
    return `${response.statusCode} ${await text(response)}`;
  }

  /** Longer than lookups of targets are remembered. */
  const forget = (): void => clock.advance(2);

  test("is refused with the exact record to make, and accepted when the record exists", async () => {
    const [status, reply] = await claim();
    assert.equal(status, 400);
    assert.match(
      reply.error,
      /^domain: app\.example\.com is not verified: make the DNS record _opensandbox\.app\.example\.com TXT "opensandbox=[0-9a-f]{32}" and try again$/,
    );
    assert.match(await visit(), /^404 /);
    const value = await prove();
    const [created, preview] = await claim("App.Example.com.");
    assert.equal(created, 201);
    assert.equal(preview.customHostname, "app.example.com");
    assert.equal(preview.sslStatus, "active");
    assert.deepEqual(preview.domainVerification, {
      ...{ status: "verified", type: "TXT", name: "_opensandbox.app.example.com", value },
      verifiedAt: new Date(clock.now()).toISOString(),
    });
    assert.equal(await visit(), "200 the sandbox");
    assert.deepEqual(new Set(dns.asked), new Set(["_opensandbox.app.example.com"]));
  });

  test("with another organization's record, an empty one or none is refused", async () => {
    const value = await prove();
    const name = "_opensandbox.app.example.com";
    for (const values of [[value.replace(/.$/, (end) => (end === "0" ? "1" : "0"))], [""], [`${value}x`], []]) {
      dns.records.set(name, values);
      assert.equal((await claim())[0], 400, values.join());
    }
  });

  test("is neither accepted nor called unverified while no name server answers", async () => {
    dns.failing = true;
    const [status, { error }] = await claim();
    assert.equal(status, 503);
    assert.match(error, /_opensandbox\.app\.example\.com cannot be looked up \(ESERVFAIL\): try again/);
  });

  test("is looked up at most once an hour, and not served from the first look without its record", async () => {
    await prove();
    await claim();
    const looks = dns.asked.length;
    dns.records.clear();
    clock.advance(hour - 1);
    assert.equal(await visit(), "200 the sandbox");
    assert.equal(dns.asked.length, looks);

    clock.advance(1);
    forget();
    // This visit starts the look, and is still served by the last proof.
    assert.equal(await visit(), "200 the sandbox");
    await eventually("the domain has lost its proof", async () => (await shown()).sslStatus === "pending_validation");
    assert.equal((await shown()).domainVerification.status, "pending");
    forget();
    assert.match(await visit(), /^403 .*app\.example\.com is not verified: make the DNS record _opensandbox/);
    assert.ok(world.logged.some(({ message }) => message.includes("its DNS record has vanished")));
  });

  test("is served again when its record is back, and looked up once a minute until then", async () => {
    const value = await prove();
    await claim();
    dns.records.clear();
    clock.advance(hour);
    await visit();
    await eventually("the domain has lost its proof", async () => (await shown()).sslStatus === "pending_validation");
    dns.records.set("_opensandbox.app.example.com", [value]);
    const looks = dns.asked.length;
    forget();
    assert.match(await visit(), /^403 /);
    assert.equal(dns.asked.length, looks);
    clock.advance(60);
    forget();
    assert.equal(await visit(), "200 the sandbox");
    assert.equal((await shown()).domainVerification.status, "verified");
  });

  test("is served for three days while no name server answers, and not longer", async () => {
    await prove();
    await claim();
    dns.failing = true;
    clock.advance(72 * hour - 1);
    assert.equal(await visit(), "200 the sandbox");
    clock.advance(1 + 60);
    forget();
    assert.match(await visit(), /^403 /);
    dns.failing = false;
    clock.advance(60);
    forget();
    assert.equal(await visit(), "200 the sandbox");
  });

  test("of an earlier version is looked up before it is served", async () => {
    const database = await openDatabase(world.database);
    await database
      .insertInto("previews")
      .values({
        id: "p",
        sandbox_id: id,
        port,
        custom_hostname: "old.example.com",
        domain_proved_at: null,
        created_at: 0,
      })
      .execute();
    await database.destroy();
    assert.match(await visit("old.example.com"), /^403 .*_opensandbox\.old\.example\.com TXT/);
    const { name, value } = (await shown()).domainVerification;
    dns.records.set(name, [value]);
    clock.advance(60);
    forget();
    assert.equal(await visit("old.example.com"), "200 the sandbox");
  });

  test("goes to another organization that proves it, once the first one's record has gone", async () => {
    await using shared = await startForTest({ storedKeys: true, customDomains: { resolveTxt: dns.resolveTxt } });
    const database = await openDatabase(shared.database);
    const keys = ["osb_first", "osb_second"];
    for (const key of keys) {
      await database.insertInto("organizations").values({ id: key, name: key, created_at: 0 }).execute();
      const hash = createHash("sha256").update(key).digest("hex");
      const row = { id: key, organization_id: key, name: key, key_hash: hash, key_prefix: "osb_", created_at: 0 };
      await database.insertInto("api_keys").values(row).execute();
    }
    await database.destroy();
    const asOrganization = async (key: string, path: string, body: object): Promise<[number, Json]> =>
      await shared.ask("POST", path, body, { headers: { "x-api-key": key } });
    const sandboxes = await Promise.all(
      keys.map(async (key) => [key, (await asOrganization(key, "/api/sandboxes", {}))[1].sandboxID] as const),
    );
    const [first, second] = sandboxes.map(
      ([key, sandbox]) =>
        async () =>
          await asOrganization(key, `/api/sandboxes/${sandbox}/preview`, { port, domain: "app.example.com" }),
    );
    const valueIn = ([, { error }]: [number, Json]): string => /"(opensandbox=.*?)"/.exec(error)?.[1] ?? "";
    const values = [valueIn(await first!()), valueIn(await second!())] as const;
    assert.notEqual(values[0], values[1]);
    const name = "_opensandbox.app.example.com";
    dns.records.set(name, [values[0]]);
    assert.deepEqual([(await first!())[0], (await second!())[0]], [201, 400]);
    // Both can prove it: the first one keeps it.
    dns.records.set(name, values);
    assert.equal((await second!())[0], 409);
    dns.records.set(name, [values[1]]);
    assert.equal((await second!())[0], 201);
  });

  test("needs no proof where the operator says so", async () => {
    await using open = await startForTest({ customDomains: { proof: "none", resolveTxt: dns.resolveTxt } });
    const sandbox = await open.create();
    const body = { port, domain: "free.example.com" };
    const [status, preview] = await open.ask("POST", `/api/sandboxes/${sandbox}/preview`, body);
    assert.equal(status, 201);
    assert.equal(preview.sslStatus, "active");
    assert.equal(preview.domainVerification, undefined);
    assert.deepEqual(dns.asked, []);
  });
});
