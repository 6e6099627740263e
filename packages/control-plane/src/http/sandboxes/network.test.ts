import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { startForTest, type TestControlPlane } from "#testing/start-for-test.ts";
import { TestWorker } from "#testing/test-worker.ts";

suite("the network policy of a sandbox", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;

  before(async () => {
    world = stack.use(await startForTest({ masterKeys: ["a1".repeat(32)] }));
  });
  after(() => stack.disposeAsync());

  async function get(id: string, rest = ""): Promise<unknown> {
    const response = await world.call("GET", `/api/sandboxes/${id}/network${rest}`);
    assert.equal(response.status, 200);
    return response.json();
  }

  function put(id: string, body: object): Promise<Response> {
    return world.call("PUT", `/api/sandboxes/${id}/network`, body);
  }

  const rules = { allow: ["example.com", "*.example.org", "203.0.113.0/24"], deny: ["secret.example.org"] };

  test("allows the internet unless the create says otherwise", async () => {
    const open = await world.create();
    assert.deepEqual(await get(open), { sandboxID: open, networkEnabled: true });
    const listed = await world.create({ egress: rules });
    assert.deepEqual(await get(listed), { sandboxID: listed, networkEnabled: true, egress: rules });
    assert.deepEqual(world.worker.started.at(-1)?.egress, rules);
    const off = await world.create({ networkEnabled: false });
    assert.equal(world.worker.started.at(-1)?.networkEnabled, false);
    assert.deepEqual(await get(off), { sandboxID: off, networkEnabled: false });
  });

  test("changes at once, and absent fields stay unchanged", async () => {
    const id = await world.create();
    const changed = await put(id, { egress: rules });
    assert.equal(changed.status, 200);
    assert.deepEqual(await changed.json(), { sandboxID: id, networkEnabled: true, egress: rules });
    assert.deepEqual(world.worker.policies.get(id), { enabled: true, egress: rules });
    await put(id, { networkEnabled: false });
    assert.deepEqual(world.worker.policies.get(id), { enabled: false, egress: rules });
    await put(id, { networkEnabled: true, egress: {} });
    assert.deepEqual(world.worker.policies.get(id), { enabled: true });
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true });
  });

  const headers = { "api.example.com": { "X-Team": "a" } };

  test("sets headers of requests, whose proxy the guest trusts since its start", async () => {
    const id = await world.create({ egress: { ...rules, headers } });
    const started = world.worker.started.at(-1);
    assert.deepEqual(started?.egress, { ...rules, headers });
    assert.match(started?.secrets?.authority?.certificate ?? "", /BEGIN CERTIFICATE/);
    assert.deepEqual(started?.secrets?.secrets, []);
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true, egress: { ...rules, headers } });
    // A fork trusts the same authority.
    const created = await world.call("POST", `/api/sandboxes/${id}/checkpoints`, { name: "headers" });
    const { id: checkpoint } = (await created.json()) as { id: string };
    assert.equal((await world.call("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, {})).status, 201);
    const fork = world.worker.started.at(-1);
    assert.deepEqual(
      [fork?.egress, fork?.secrets?.authority?.certificate],
      [{ ...rules, headers }, started?.secrets?.authority?.certificate],
    );
  });

  test("headers and lists change apart from each other, and an empty object removes both", async () => {
    const id = await world.create({ egress: { ...rules, headers } });
    const after = async (egress: object): Promise<unknown> => {
      const changed = await put(id, { egress });
      assert.equal(changed.status, 200, await changed.clone().text());
      return world.worker.policies.get(id)?.egress;
    };
    const others = { "*.example.org": { "x-other": "b" } };
    assert.deepEqual(await after({ headers: others }), { ...rules, headers: others });
    assert.deepEqual(await after({ deny: ["a.example"] }), { deny: ["a.example"], headers: others });
    assert.deepEqual(await after({ headers: {} }), { deny: ["a.example"] });
    assert.deepEqual(await after({ allow: [], headers }), { allow: [], headers });
    assert.deepEqual(await after({}), undefined);
    assert.deepEqual(await after({ headers }), { headers });
  });

  test("headers for a guest that trusts no proxy, and hostile ones, are refused and change nothing", async () => {
    const plain = await world.create({ egress: rules });
    const refused = await put(plain, { egress: { headers } });
    assert.equal(refused.status, 409);
    assert.match(await refused.text(), /created without header rules and without a secret store/);
    const id = await world.create({ egress: { headers } });
    for (const own of [{ "x-a": "1\r\nHost: evil.example" }, { Host: "evil.example" }, { "Content-Length": "0" }]) {
      for (const reply of [
        await put(id, { egress: { headers: { "api.example.com": own } } }),
        await world.call("POST", "/api/sandboxes", { egress: { headers: { "api.example.com": own } } }),
      ]) {
        assert.equal(reply.status, 400, JSON.stringify(own));
        assert.match(await reply.text(), /headers: api\.example\.com/);
      }
    }
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true, egress: { headers } });
    assert.deepEqual(await get(plain), { sandboxID: plain, networkEnabled: true, egress: rules });
  });

  test("survives hibernation, and can change during it without a wake", async () => {
    const id = await world.create({ egress: rules });
    await world.call("POST", `/api/sandboxes/${id}/hibernate`);
    assert.equal((await put(id, { egress: { allow: [] } })).status, 200);
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true, egress: { allow: [] } });
    await world.call("POST", `/api/sandboxes/${id}/wake`, {});
    assert.deepEqual(world.worker.started.at(-1)?.egress, { allow: [] });
  });

  test("is inherited by forks", async () => {
    const id = await world.create({ egress: rules });
    const created = await world.call("POST", `/api/sandboxes/${id}/checkpoints`, { name: "here" });
    const { id: checkpoint } = (await created.json()) as { id: string };
    const fork = await world.call("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, {});
    assert.equal(fork.status, 201, await fork.clone().text());
    assert.deepEqual(world.worker.started.at(-1)?.egress, rules);
    const other = { allow: ["203.0.113.7"] };
    for (const [asked, egress, networkEnabled] of [
      [{ egress: other }, other, true],
      [{ egress: {} }, undefined, true],
      [{ networkEnabled: false }, rules, false],
    ] as const) {
      const own = await world.call("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, asked);
      const reply = (await own.json()) as { egress?: object; networkEnabled: boolean };
      assert.deepEqual([own.status, reply.egress, reply.networkEnabled], [201, egress, networkEnabled]);
      const started = world.worker.started.at(-1);
      assert.deepEqual([started?.egress, started?.networkEnabled], [egress, networkEnabled]);
    }
  });

  test("stays unchanged when the worker cannot enforce the new one", async () => {
    const id = await world.create();
    world.worker.onSetNetworkPolicy = () => {
      throw new SandboxError("not_supported", "not on this host");
    };
    assert.equal((await put(id, { egress: rules })).status, 501);
    world.worker.onSetNetworkPolicy = () => {};
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true });
  });

  test("stays unchanged during hibernation too when the host cannot enforce the new one", async () => {
    const network = { mode: "user", reason: "it is not root", notEnforced: ["rules are refused"] } as const;
    const worker = new TestWorker();
    worker.description = { ...worker.description, network };
    await using elsewhere = await startForTest({ worker });
    const id = await elsewhere.create();
    await elsewhere.call("POST", `/api/sandboxes/${id}/hibernate`);
    const path = `/api/sandboxes/${id}/network`;
    const [status, { error }] = await elsewhere.ask("PUT", path, { egress: rules });
    assert.equal(status, 501);
    assert.match(error, /cannot enforce egress rules: it is not root/);
    const here = { sandboxID: id, networkEnabled: true, notEnforced: network.notEnforced };
    assert.deepEqual(await elsewhere.ask("GET", path), [200, here]);
    worker.killAll();
  });

  test("stays unchanged by an empty body", async () => {
    const id = await world.create({ egress: rules });
    for (const body of [{}, { allow: ["example.com"] }]) {
      const response = await put(id, body);
      assert.equal(response.status, 400);
      assert.match(await response.text(), /networkEnabled or egress is required/);
    }
    assert.deepEqual(await get(id), { sandboxID: id, networkEnabled: true, egress: rules });
  });

  for (const [egress, error] of [
    [{ alow: ["example.com"] }, /alow/],
    [{ allow: ["http://example.com"] }, /"http:\/\/example.com": /],
    [{ allow: ["10.0.0.0/8"] }, /private/],
    [{ allow: "example.com" }, /egress/],
    [{ deny: ["*"] }, /"\*": /],
    [{ allow: Array(257).fill("example.com") }, /at most 256/],
  ] as const) {
    test(`is refused with a reason: ${JSON.stringify(egress).slice(0, 60)}`, async () => {
      for (const response of [
        await world.call("POST", "/api/sandboxes", { egress }),
        await put(await world.create(), { egress }),
      ]) {
        assert.equal(response.status, 400);
        assert.match(((await response.json()) as { error: string }).error, error);
      }
    });
  }

  test("records refused connections, and reading the record wakes nothing", async () => {
    const id = await world.create();
    const refusal = {
      at: "2026-01-01T00:00:00.000Z",
      count: 2,
      protocol: "tcp",
      address: "10.0.0.1",
      port: 22,
      reason: "no",
    } as const;
    world.worker.refusals = [refusal];
    assert.deepEqual(await get(id, "/log"), [refusal]);
    await world.call("POST", `/api/sandboxes/${id}/hibernate`);
    const starts = world.worker.started.length;
    assert.deepEqual(await get(id, "/log"), []);
    assert.equal(world.worker.started.length, starts);
  });

  test("is not found by other organizations", async () => {
    assert.equal((await world.call("GET", "/api/sandboxes/sb-00000000/network")).status, 404);
    assert.equal((await put("sb-00000000", { egress: rules })).status, 404);
    assert.equal((await world.call("GET", "/api/sandboxes/sb-00000000/network/log")).status, 404);
  });
});
