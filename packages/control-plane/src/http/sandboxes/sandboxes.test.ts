import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest } from "#testing/start-for-test.ts";

interface Reply {
  sandboxID: string;
  status: string;
  error: string;
  code: string;
  [key: string]: unknown;
}

const json = async (response: Response): Promise<Reply> => (await response.json()) as Reply;

test("a sandbox is created, shown, listed, deleted and then stopped", async () => {
  await using world = await startForTest();
  const created = await world.call("POST", "/api/sandboxes", {
    templateID: "base",
    cpuCount: 2,
    memoryMB: 512,
    envs: { A: "1" },
    metadata: { owner: "me" },
    alias: "mine",
    timeout: 0,
  });
  assert.equal(created.status, 201);
  assert.match(created.headers.get("server-timing") ?? "", /^machine-start;dur=1\.3$/);
  const sandbox = await json(created);
  assert.match(sandbox.sandboxID, /^sb-[0-9a-f]{16}$/);
  const { envs, vcpus, memoryMib, from, generation } = world.worker.started[0] ?? assert.fail("not started");
  assert.deepEqual(
    { envs, vcpus, memoryMib, from, generation },
    { envs: { A: "1" }, vcpus: 2, memoryMib: 512, from: { kind: "image", image: "default" }, generation: 1 },
  );

  const seen = await json(await world.call("GET", `/api/sandboxes/${sandbox.sandboxID}`));
  assert.deepEqual(seen, sandbox);
  assert.equal(seen.status, "running");
  assert.equal(seen["sandboxDomain"], "sandbox.test");
  assert.deepEqual(seen["metadata"], { owner: "me" });
  assert.equal(seen["endAt"], undefined);
  assert.deepEqual(await (await world.call("GET", "/api/sandboxes")).json(), [sandbox]);

  assert.equal((await world.call("DELETE", `/api/sandboxes/${sandbox.sandboxID}`)).status, 204);
  const killed = await json(await world.call("GET", `/api/sandboxes/${sandbox.sandboxID}`));
  assert.equal(killed.status, "stopped");
  assert.equal(killed["reason"], "it was deleted");
  assert.deepEqual(await (await world.call("GET", "/api/sandboxes")).json(), []);
  assert.equal((await world.call("DELETE", `/api/sandboxes/${sandbox.sandboxID}`)).status, 204);
  assert.equal(world.worker.stopped.length, 1);
});

test("an empty body creates the default sandbox, and names match in any case", async () => {
  await using world = await startForTest();
  assert.equal((await world.call("POST", "/api/sandboxes")).status, 201);
  const body = new Blob([JSON.stringify({ TemplateId: "minimal", MEMORYMB: 256, envs: null, unknown: 1 })]);
  const response = await world.call("POST", "/api/sandboxes", new Uint8Array(await body.arrayBuffer()), {
    headers: { "content-type": "no/such; type" },
  });
  assert.equal(response.status, 201);
  const [first, second] = world.worker.started;
  assert.deepEqual(first?.from, { kind: "image", image: "default" });
  assert.deepEqual([first?.memoryMib, first?.workspaceMib], [1024, 20_480]);
  assert.deepEqual(second?.from, { kind: "image", image: "minimal" });
  assert.equal(second?.memoryMib, 256);
});

for (const [body, status, message] of [
  [{ templateID: "nope" }, 404, 'template "nope" not found: this server has base, default, minimal'],
  [{ memoryMB: 1000 }, 400, "memoryMB must be a multiple of 128 from 256 to 65536"],
  [{ memoryMB: 128 }, 400, "memoryMB must be a multiple of 128 from 256 to 65536"],
  [{ memoryMB: 65_664 }, 400, "memoryMB must be a multiple of 128 from 256 to 65536"],
  [{ memoryMB: "lots" }, 400, "memoryMB must be a multiple of 128 from 256 to 65536"],
  [{ cpuCount: 0 }, 400, "cpuCount must be a whole number from 1 to 16"],
  [{ cpuCount: 1.5 }, 400, "cpuCount must be a whole number from 1 to 16"],
  [{ cpuCount: 17 }, 400, "cpuCount must be a whole number from 1 to 16"],
  [{ diskMB: 1024 }, 400, "diskMB must be at least 20480 (20GB)"],
  [{ diskMB: 262_145 }, 400, "diskMB must be at most 262144 (256GB)"],
  [{ timeout: -1 }, 400, "timeout must be non-negative (0 disables auto-hibernate)"],
  [{ timeout: 1.5 }, 400, "timeout must be a whole number of seconds"],
  [{ envs: { "A=B": "1" } }, 400, "envs: a name must not be empty nor contain = or NUL"],
  [{ envs: { A: 1 } }, 400, "envs.A: Invalid input: expected string, received number"],
  [{ networkEnabled: "yes" }, 400, "networkEnabled: Invalid input: expected boolean, received string"],
  [{ snapshot: "mine" }, 404, "snapshot not found"],
  [[], 400, "the request body: Invalid input: expected object, received array"],
  ["{nope", 400, "the request body is not JSON: "],
] as const) {
  test(`create with ${JSON.stringify(body)} is refused with ${status} and leaves nothing`, async () => {
    await using world = await startForTest();
    const response = await world.call("POST", "/api/sandboxes", body);
    assert.equal(response.status, status);
    const { error } = await json(response);
    assert.ok(error === message || (message.endsWith(": ") && error.startsWith(message)), error);
    assert.deepEqual(world.worker.started, []);
    assert.deepEqual(await (await world.call("GET", "/api/sandboxes")).json(), []);
  });
}

test("unknown sandboxes and malformed ids are not found", async () => {
  await using world = await startForTest();
  for (const id of ["sb-00000000", "nonsense", "..%2f..", "a".repeat(500)]) {
    const response = await world.call("GET", `/api/sandboxes/${id}`);
    assert.equal(response.status, 404);
    assert.equal((await json(response)).error, "sandbox not found");
    assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 404);
    assert.equal((await world.call("POST", `/api/sandboxes/${id}/exec/run`, { cmd: "true" })).status, 404);
  }
});

test("a call to a deleted sandbox says so", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await world.call("DELETE", `/api/sandboxes/${id}`);
  const response = await world.call("POST", `/api/sandboxes/${id}/exec/run`, { cmd: "true" });
  assert.equal(response.status, 410);
  const { error, code } = await json(response);
  assert.deepEqual([error, code], [`sandbox ${id} is stopped: it was deleted`, "gone"]);
});

test("a failed start answers with its error and leaves nothing", async () => {
  await using world = await startForTest();
  world.worker.onStart = () => {
    throw new SandboxError("no_capacity", "no room", { resource: "memory", needMib: 1024, freeMib: 1 });
  };
  const response = await world.call("POST", "/api/sandboxes", {});
  assert.equal(response.status, 503);
  assert.equal(response.headers.get("retry-after"), "1");
  const { error, code, retryable, details } = await json(response);
  assert.deepEqual([error, code, retryable], ["no room", "no_capacity", true]);
  assert.deepEqual(details, { resource: "memory", needMib: 1024, freeMib: 1 });
  const id = world.worker.started[0]?.id ?? "";
  assert.equal((await world.call("GET", `/api/sandboxes/${id}`)).status, 404);
});

test("an unexpected error is answered with its request id only, and the log has the cause", async () => {
  await using world = await startForTest();
  world.worker.onStart = () => {
    throw new Error("secret path", { cause: new Error("root") });
  };
  const response = await world.call("POST", "/api/sandboxes", {});
  assert.equal(response.status, 500);
  const body = await json(response);
  assert.ok(!JSON.stringify(body).includes("secret"));
  assert.equal(body["requestId"], response.headers.get("x-request-id"));
  const logged = JSON.stringify(world.logged);
  for (const part of [body["requestId"] as string, "secret path", "root"]) assert.ok(logged.includes(part), part);
});

test("a start that could not be undone stays visible and can be deleted", async () => {
  await using world = await startForTest();
  world.worker.onStart = () => {
    throw new SandboxError("unavailable", "no boot");
  };
  world.worker.onStop = () => {
    throw new SandboxError("unavailable", "stuck");
  };
  const response = await world.call("POST", "/api/sandboxes", {});
  assert.equal((await json(response)).error, "no boot");
  const id = world.worker.started[0]?.id ?? "";
  assert.equal((await json(await world.call("GET", `/api/sandboxes/${id}`))).status, "error");
  world.worker.onStop = () => {};
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  assert.equal((await json(await world.call("GET", `/api/sandboxes/${id}`))).status, "stopped");
});

test("a create whose client disconnects is undone", async () => {
  await using world = await startForTest();
  const started = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  // This worker ignores the abort itself, so the machine does start.
  world.worker.onStart = (_request, _onProgress, signal) => {
    started.resolve();
    signal.addEventListener("abort", () => released.resolve());
    return released.promise;
  };
  const caller = new AbortController();
  const response = world.call("POST", "/api/sandboxes", {}, { signal: caller.signal });
  response.catch(() => {});
  await started.promise;
  caller.abort();
  await assert.rejects(response);
  const id = world.worker.started[0]?.id ?? "";
  await eventually("the row is gone", async () => (await world.call("GET", `/api/sandboxes/${id}`)).status === 404);
  assert.deepEqual(world.worker.live, []);
});

test("the same idempotency key returns the same sandbox, also for concurrent creates", async () => {
  await using world = await startForTest();
  const create = () => world.call("POST", "/api/sandboxes", {}, { headers: { "idempotency-key": "k1" } });
  const responses = await Promise.all([create(), create(), create()]);
  const sandboxes = await Promise.all(responses.map(json));
  assert.equal(new Set(sandboxes.map(({ sandboxID }) => sandboxID)).size, 1);
  assert.deepEqual(
    responses.map(({ status }) => status).toSorted((a, b) => a - b),
    [200, 200, 201],
  );
  assert.ok(sandboxes.every(({ status }) => status === "running"));
  assert.equal(world.worker.started.length, 1);
  assert.notEqual(await world.create(), sandboxes[0]?.sandboxID);
});

test("an idempotency key lasts a day", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock } });
  const create = () => world.call("POST", "/api/sandboxes", {}, { headers: { "idempotency-key": "k1" } });
  const { sandboxID: first } = await json(await create());
  clock.advance(24 * 3600 - 1);
  assert.equal((await json(await create())).sandboxID, first);
  clock.advance(1);
  const responses = await Promise.all([create(), create()]);
  const [second, third] = await Promise.all(responses.map(json));
  assert.notEqual(second?.sandboxID, first);
  assert.equal(third?.sandboxID, second?.sandboxID);
  assert.notEqual((await world.get(first)).status, "stopped");
});

test("a failed create can be repeated with its key", async () => {
  await using world = await startForTest();
  world.worker.onStart = () => {
    throw new SandboxError("unavailable", "not now");
  };
  const create = () => world.call("POST", "/api/sandboxes", {}, { headers: { "idempotency-key": "k1" } });
  assert.equal((await create()).status, 503);
  world.worker.onStart = () => {};
  assert.equal((await create()).status, 201);
});

test("the limit holds for concurrent creates, and a deleted sandbox frees its place", async () => {
  await using world = await startForTest({ limits: { maxSandboxes: 3 } });
  const responses = await Promise.all(Array.from({ length: 6 }, () => world.call("POST", "/api/sandboxes", {})));
  assert.deepEqual(
    responses.map(({ status }) => status).toSorted((a, b) => a - b),
    [201, 201, 201, 429, 429, 429],
  );
  const refused = responses.find(({ status }) => status === 429) ?? assert.fail();
  const { error, code } = await json(refused);
  assert.deepEqual(
    [error, code],
    ["concurrent sandbox limit reached (3): delete or hibernate one first", "quota_exceeded"],
  );
  await world.call("DELETE", `/api/sandboxes/${world.worker.live[0]}`);
  await world.create();
});

test("calls wait while a sandbox is being created", async () => {
  await using world = await startForTest();
  const started = Promise.withResolvers<string>();
  const go = Promise.withResolvers<void>();
  world.worker.onStart = ({ id }) => {
    started.resolve(id);
    return go.promise;
  };
  const creating = world.create();
  const id = await started.promise;
  assert.equal((await json(await world.call("GET", `/api/sandboxes/${id}`))).status, "creating");
  const write = world.call("PUT", `/api/sandboxes/${id}/files?path=/a`, "early");
  go.resolve();
  assert.equal((await write).status, 204);
  assert.equal(await creating, id);
});

test("a create with events reports its progress, then the sandbox", async () => {
  await using world = await startForTest();
  world.worker.onStart = (_request, onProgress) => {
    onProgress({ step: "unpacking", percent: 50 });
    onProgress({ step: "two\nlines" });
  };
  const response = await world.call("POST", "/api/sandboxes", {}, { headers: { accept: "text/event-stream" } });
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const frames = (await response.text()).split("\n\n");
  assert.deepEqual(frames.slice(0, 2), [
    'event: build_log\ndata: {"step":0,"type":"progress","message":"unpacking (50 %)"}',
    'event: build_log\ndata: {"step":1,"type":"progress","message":"two\\nlines"}',
  ]);
  assert.match(frames[2] ?? "", /^event: result\ndata: \{"sandboxID":"sb-/);
  assert.equal(frames[3], "");
});

test("a create with events reports a late failure as an event and an early one as a status", async () => {
  await using world = await startForTest();
  world.worker.onStart = (_request, onProgress) => {
    onProgress({ step: "unpacking" });
    throw new SandboxError("unavailable", "no kernel");
  };
  const ask = (body: object) =>
    world.call("POST", "/api/sandboxes", body, { headers: { accept: "text/event-stream" } });
  const late = await ask({});
  assert.equal(late.status, 200);
  assert.match(await late.text(), /event: error\ndata: \{"error":"no kernel"/);
  assert.equal((await ask({ templateID: "nope" })).status, 404);
});

test("the idle timeout can be set, and invalid values are refused", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const id = await world.create({ timeout: 60 });
  const set = (body: unknown) => world.call("POST", `/api/sandboxes/${id}/timeout`, body);
  const refused = await set({ timeout: -5 });
  assert.equal(refused.status, 400);
  assert.equal((await json(refused)).error, "timeout must be non-negative (0 disables auto-hibernate)");
  assert.equal((await json(await set({}))).error, "timeout is required: idle seconds, or 0 for never");

  assert.equal((await set({ timeout: 100 })).status, 204);
  const get = async () => json(await world.call("GET", `/api/sandboxes/${id}`));
  assert.equal((await get())["timeout"], 100);
  assert.equal((await get())["endAt"], new Date(clock.now() + 100_000).toISOString());
  clock.advance(99);
  assert.equal((await get()).status, "running");
  clock.advance(1);
  await eventually("it is hibernated", async () => (await get()).status === "hibernated");

  assert.equal((await set({ timeout: 5 })).status, 204);
  assert.deepEqual([(await get()).status, (await get())["timeout"]], ["hibernated", 5]);
  await world.call("DELETE", `/api/sandboxes/${id}`);
  assert.equal((await set({ timeout: 5 })).status, 410);
});

test("a sandbox that cannot be stopped says so, and can be deleted again", async () => {
  await using world = await startForTest();
  const id = await world.create();
  world.worker.onStop = () => {
    throw new SandboxError("unavailable", "busy");
  };
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 503);
  assert.equal((await json(await world.call("GET", `/api/sandboxes/${id}`))).status, "error");
  world.worker.onStop = () => {};
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  assert.deepEqual(world.worker.live, []);
});

test("lists select by alias and tag, and past sandboxes are listed in pages", async () => {
  await using world = await startForTest();
  const ids: string[] = [];
  for (const alias of ["a", "b", "a", "a", "b"]) ids.push(await world.create({ alias }));
  const [first = "", second = "", , , last = ""] = ids;
  await world.ask("PUT", `/api/sandboxes/${first}/tags`, { team: "web", other: '"team":"api"' });
  await world.ask("PUT", `/api/sandboxes/${second}/tags`, { team: "API" });
  await world.call("DELETE", `/api/sandboxes/${last}`);
  const list = async (path: string): Promise<string[]> => {
    const [status, found] = await world.ask("GET", path);
    assert.equal(status, 200, path);
    return found.map(({ sandboxID }: { sandboxID: string }) => sandboxID);
  };
  const seen: string[] = [];
  for (let page = await list("/api/sessions?limit=2"); page.length > 0;) {
    seen.push(...page);
    page = await list(`/api/sessions?limit=2&after=${page.at(-1)}`);
  }
  assert.deepEqual([seen.length, new Set(seen)], [5, new Set(ids)]);
  assert.deepEqual(await list("/api/sandboxes?alias=b"), [second]);
  assert.deepEqual(await list("/api/sessions?alias=b&status=stopped"), [last]);
  assert.deepEqual((await list("/api/sandboxes?tag=team")).toSorted(), [first, second].toSorted());
  assert.deepEqual(await list("/api/sandboxes?tag=team%3Dweb"), [first]);
  // Neither another case nor the text of another tag matches.
  assert.deepEqual(await list("/api/sandboxes?tag=team%3Dapi"), []);
  for (const query of ["limit=0", "limit=1001", "limit=x", "tag=", "status=asleep"]) {
    assert.equal((await world.ask("GET", `/api/sandboxes?${query}`))[0], 400, query);
  }
});

test("older clients ask for the default image by other names", async () => {
  await using world = await startForTest();
  const before = await world.get(await world.create());
  for (const templateID of ["", "base", "python", "node"]) {
    assert.equal((await world.get(await world.create({ templateID }))).template, before.template);
  }
});
