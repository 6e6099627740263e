import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest } from "#testing/start-for-test.ts";

test("tags are replaced together in any state, and their keys are counted", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock } });
  const [first, second, third] = [await world.create(), await world.create(), await world.create()];
  const tags = (id: string, body?: object) =>
    world.ask(body === undefined ? "GET" : "PUT", `/api/sandboxes/${id}/tags`, body);
  assert.deepEqual(await tags(first), [200, { tags: {}, tagsLastUpdatedAt: null }]);
  const tagsLastUpdatedAt = new Date(clock.now()).toISOString();
  assert.deepEqual(await tags(first, { team: "a", env: "dev" }), [
    200,
    { tags: { team: "a", env: "dev" }, tagsLastUpdatedAt },
  ]);
  const seen = await world.get(first);
  assert.deepEqual([seen.tags, seen.tagsLastUpdatedAt], [{ team: "a", env: "dev" }, tagsLastUpdatedAt]);
  await tags(second, { team: "b", "x:y.z-1": "" });
  await tags(third, { team: "c" });
  await world.ask("POST", `/api/sandboxes/${second}/hibernate`);
  await world.call("DELETE", `/api/sandboxes/${third}`);
  assert.deepEqual(await world.ask("GET", "/api/tags"), [
    200,
    {
      keys: [
        { key: "env", sandboxCount: 1, valueCount: 1 },
        { key: "team", sandboxCount: 2, valueCount: 2 },
        { key: "x:y.z-1", sandboxCount: 1, valueCount: 1 },
      ],
    },
  ]);
  assert.deepEqual((await tags(first, {}))[1].tags, {});
  assert.equal((await tags("sb-00000000", {}))[0], 404);
});

for (const [body, message] of [
  [Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`k${n}`, ""])), "a sandbox has at most 50 tags"],
  [{ "a b": "" }, "a tag's key has 1 to 128 letters, digits, _ . - and :"],
  [{ ["x".repeat(129)]: "" }, "a tag's key has 1 to 128 letters, digits, _ . - and :"],
  [{ "oc:mine": "" }, "a tag's key must not begin with oc:, which is reserved"],
  [{ a: "x".repeat(257) }, "a tag's value has at most 256 characters"],
  [{ a: 1 }, "a: Invalid input: expected string, received number"],
] as const) {
  test(`tags are refused: ${message}`, async () => {
    await using world = await startForTest();
    const id = await world.create();
    const [status, { error }] = await world.ask("PUT", `/api/sandboxes/${id}/tags`, body);
    assert.deepEqual([status, error], [400, message]);
    assert.deepEqual((await world.get(id)).tags, {});
  });
}

test("environment variables are set and removed while a sandbox runs, and while it is hibernated", async () => {
  await using world = await startForTest();
  const id = await world.create({ envs: { KEPT: "1", OLD: "2" } });
  const change = async (envs: unknown) => await world.ask("PATCH", `/api/sandboxes/${id}/envs`, { envs });
  const environment = () => world.worker.host.machine(parseSandboxId(id)).request.envs;
  assert.deepEqual(await change({ OLD: null, NEW: "3", NEVER_SET: null }), [200, { names: ["KEPT", "NEW"] }]);
  assert.deepEqual(environment(), { KEPT: "1", NEW: "3" });
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  assert.deepEqual(await change({ NEW: "4" }), [200, { names: ["KEPT", "NEW"] }]);
  await world.ask("POST", `/api/sandboxes/${id}/wake`);
  assert.deepEqual(environment(), { KEPT: "1", NEW: "4" });
  for (const envs of [{ "": "x" }, { "A=B": "x" }, { A: "\0" }, { A: 1 }, undefined]) {
    assert.equal((await change(envs))[0], 400, JSON.stringify(envs));
  }
  assert.deepEqual(environment(), { KEPT: "1", NEW: "4" });
  await world.call("DELETE", `/api/sandboxes/${id}`);
  assert.equal((await change({}))[0], 410);
});

test("a running sandbox is resized, which disables autoscale", async () => {
  await using world = await startForTest();
  const id = await world.create({ memoryMB: 512 });
  const ask = (method: string, path: string, body?: object) => world.ask(method, `/api/sandboxes/${id}/${path}`, body);
  await ask("PUT", "autoscale", { enabled: true });
  const scaled = { sandboxID: id, memoryMB: 2048, cpuPercent: 100, ok: true };
  assert.deepEqual(await ask("POST", "scale", { memoryMB: 2048 }), [200, { ...scaled, autoscaleDisabled: true }]);
  assert.equal((await ask("GET", "autoscale"))[1].enabled, false);
  assert.equal((await world.get(id)).memoryMB, 2048);
  assert.equal(world.worker.host.machine(id).request.memoryMib, 2048);
  assert.deepEqual(await ask("PUT", "limits", { memoryMB: 1024, cpuPercent: 100 }), [
    200,
    { ...scaled, memoryMB: 1024 },
  ]);
});

test("limits of processor time and processes are kept over hibernation, and a change of memory leaves them", async () => {
  await using world = await startForTest();
  const id = parseSandboxId(await world.create({ memoryMB: 1024, cpuCount: 4 }));
  const ask = (method: string, path: string, body?: object) => world.ask(method, `/api/sandboxes/${id}/${path}`, body);
  const limits = { memoryMB: 512, cpuPercent: 250, maxPids: 200 };
  const scaled = { sandboxID: id, memoryMB: 512, cpuPercent: 250, ok: true };
  assert.deepEqual(await ask("PUT", "limits", limits), [200, scaled]);
  assert.deepEqual(await ask("POST", "scale", { memoryMB: 2048 }), [200, { ...scaled, memoryMB: 2048 }]);
  assert.equal((await ask("POST", "hibernate"))[0], 200);
  assert.equal((await ask("POST", "wake"))[0], 200);
  const { memoryMib, cpuPercent, maxPids } = world.worker.host.machine(id).request;
  assert.deepEqual([memoryMib, cpuPercent, maxPids], [2048, 250, 200]);
  const asked = await world.worker.askToScale(id, { memoryMB: 1024, cpuPercent: 400 });
  assert.deepEqual(asked, { status: 200, body: { ...scaled, memoryMB: 1024, cpuPercent: 400 } });
});

test("a guest resizes itself with its owner's rights and limits", async () => {
  await using world = await startForTest();
  const id = parseSandboxId(await world.create({ memoryMB: 512 }));
  const ask = (body: unknown) => world.worker.askToScale(id, body);
  assert.deepEqual(await ask({ memoryMB: 1024 }), {
    status: 200,
    body: { sandboxID: id, memoryMB: 1024, cpuPercent: 100, ok: true },
  });
  assert.equal((await world.get(id)).memoryMB, 1024);
  assert.deepEqual(await ask({}), {
    status: 400,
    body: { error: "memoryMB is required and must be positive", code: "invalid_argument" },
  });
  await world.ask("PUT", `/api/sandboxes/${id}/scaling-lock`, { locked: true });
  assert.equal((await ask({ memoryMB: 2048 }))?.status, 403);
});

test("a size too small for the sandbox's processes is refused and changes nothing", async () => {
  await using world = await startForTest();
  const id = await world.create({ memoryMB: 2048 });
  world.worker.onScale = () => ({ done: false, because: "its commands use too much of its 2048 MiB" });
  assert.deepEqual(await world.ask("POST", `/api/sandboxes/${id}/scale`, { memoryMB: 1024 }), [
    409,
    {
      error:
        "1024 MiB are too little for this sandbox: its commands use too much of its 2048 MiB. " +
        "End some of its processes, or choose more memory",
      code: "oom_floor",
    },
  ]);
  assert.equal((await world.get(id)).memoryMB, 2048);
});

test("a refused size says why, and the lock is checked first", async () => {
  await using world = await startForTest();
  const id = await world.create();
  const ask = (method: string, path: string, body?: object) => world.ask(method, `/api/sandboxes/${id}/${path}`, body);
  for (const memoryMB of [undefined, 0, -1]) {
    const [status, { error }] = await ask("POST", "scale", { memoryMB });
    assert.deepEqual([status, error], [400, "memoryMB is required and must be positive"]);
  }
  for (const [other, rule] of [
    [{ cpuPercent: 50 }, "cpuPercent must be a whole number from 100 to 1600"],
    [{ cpuPercent: 1700 }, "cpuPercent must be a whole number from 100 to 1600"],
    [{ maxPids: 1 }, "maxPids must be a whole number from 16 to 32768"],
  ] as const) {
    const [status, { error }] = await ask("PUT", "limits", { memoryMB: 2048, ...other });
    assert.deepEqual([status, error], [400, rule]);
  }
  assert.deepEqual(await ask("GET", "scaling-lock"), [200, { sandboxID: id, locked: false }]);
  assert.deepEqual(await ask("PUT", "scaling-lock", { locked: true }), [200, { sandboxID: id, locked: true }]);
  assert.deepEqual(await ask("GET", "scaling-lock"), [200, { sandboxID: id, locked: true }]);
  for (const [method, path, body] of [
    ["POST", "scale", { memoryMB: 2048 }],
    ["PUT", "limits", { memoryMB: 2048 }],
    ["PUT", "autoscale", { enabled: true }],
  ] as const) {
    const [status, { code }] = await ask(method, path, body);
    assert.deepEqual([status, code], [403, "scaling_locked"]);
  }
});

test("autoscale is stored, and is disabled by the lock", async () => {
  await using world = await startForTest();
  const id = await world.create({ memoryMB: 512 });
  const ask = (method: string, path: string, body?: object) => world.ask(method, `/api/sandboxes/${id}/${path}`, body);
  const off = { sandboxID: id, enabled: false, minMemoryMB: 512, maxMemoryMB: 512, effective: true };
  assert.deepEqual(await ask("GET", "autoscale"), [200, off]);
  const on = { sandboxID: id, enabled: true, minMemoryMB: 512, maxMemoryMB: 4096, effective: true };
  assert.deepEqual(await ask("PUT", "autoscale", { enabled: true, minMemoryMB: 512, maxMemoryMB: 4096 }), [200, on]);
  assert.deepEqual(await ask("GET", "autoscale"), [200, on]);
  const [status, { error }] = await ask("PUT", "autoscale", { enabled: true, minMemoryMB: 1024, maxMemoryMB: 512 });
  assert.deepEqual([status, error], [400, "minMemoryMB must not be more than maxMemoryMB"]);
  await ask("PUT", "scaling-lock", { locked: true });
  assert.deepEqual(await ask("GET", "autoscale"), [200, { ...on, enabled: false }]);
  await ask("PUT", "scaling-lock", { locked: false });
  assert.equal((await ask("GET", "autoscale"))[1].enabled, false);
});

test("the load of a sandbox sets its memory within its range, and neither counts as use nor ends autoscale", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const id = parseSandboxId(await world.create({ memoryMB: 1024, timeout: 100_000 }));
  const { files } = world.worker.host.machine(id);
  const load = (usedMib: number, pressure: number): void => {
    for (const [name, text] of [
      ["memory.current", `${(usedMib + 200) * 2 ** 20}\n`],
      ["memory.max", `${world.worker.host.machine(id).request.memoryMib * 2 ** 20}\n`],
      ["memory.stat", `anon 1\ninactive_file ${200 * 2 ** 20}\nactive_file 0\n`],
      ["memory.pressure", `some avg10=${pressure} avg60=0.00 avg300=0.00 total=0\n`],
    ] as const) {
      const chunks = [Buffer.from(text)];
      files.set(`/sys/fs/cgroup/sandbox/${name}`, { chunks, size: text.length, mode: 0o444 });
    }
  };
  const has = async (memoryMB: number): Promise<boolean> =>
    await eventually(`it has ${memoryMB} MiB`, async () => (await world.get(id)).memoryMB === memoryMB);
  load(100, 0);
  const range = { enabled: true, minMemoryMB: 512, maxMemoryMB: 1536 };
  await world.ask("PUT", `/api/sandboxes/${id}/autoscale`, range);
  const { endAt } = await world.get(id);
  load(900, 0);
  await has(1536);
  load(900, 50);
  await world.ask("PUT", `/api/sandboxes/${id}/autoscale`, { ...range, maxMemoryMB: 2048 });
  await has(2048);
  assert.equal(world.worker.host.machine(id).request.memoryMib, 2048);
  load(100, 0);
  await eventually("a low load for five minutes makes it shrink", async () => {
    clock.advance(30);
    return (await world.get(id)).memoryMB === 1024;
  });
  const [, { enabled }] = await world.ask("GET", `/api/sandboxes/${id}/autoscale`);
  assert.deepEqual([enabled, (await world.get(id)).endAt], [true, endAt]);
  await world.ask("POST", `/api/sandboxes/${id}/scale`, { memoryMB: 1536 });
  load(1500, 90);
  clock.advance(1000);
  await world.ask("PUT", `/api/sandboxes/${id}/autoscale`, { ...range, minMemoryMB: 1792, maxMemoryMB: 1792 });
  await has(1792);
});
