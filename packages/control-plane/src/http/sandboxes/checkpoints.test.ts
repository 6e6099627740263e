import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { openDatabase } from "#database/database.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "#testing/held.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";
import { TestHost } from "#testing/test-host.ts";
import { TestWorker } from "#testing/test-worker.ts";

interface Given extends AsyncDisposable {
  readonly world: TestControlPlane;
  readonly id: string;
  /** Creates a checkpoint and waits until it is ready or failed. */
  readonly make: (body: object) => Promise<Json>;
  readonly list: () => Promise<Json[]>;
  readonly fork: (checkpoint: string, body?: object) => Promise<[number, Json]>;
  readonly patch: (checkpoint: string, script: string) => Promise<[number, Json]>;
  readonly note: (sandbox?: string) => Promise<string>;
}

async function setUp(): Promise<Given> {
  const world = await startForTest({ limits: { maxSandboxes: 100 } });
  const id = await world.create({ envs: { A: "1", B: "1" }, metadata: { owner: "me", purpose: "test" } });
  await world.call("PUT", `/api/sandboxes/${id}/files?path=/note`, "first");
  const path = `/api/sandboxes/${id}/checkpoints`;
  return {
    world,
    id,
    make: async (body) => {
      const [status, made] = await world.ask("POST", path, body);
      assert.deepEqual([status, made.status], [201, "processing"], JSON.stringify(made));
      let seen: Json = made;
      await eventually("the checkpoint is made", async () => {
        [, seen] = await world.ask("GET", `${path}/${made.id}`);
        return seen.status !== "processing";
      });
      return seen;
    },
    list: async () => (await world.ask("GET", path))[1],
    fork: (checkpoint, body) => world.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, body),
    patch: (checkpoint, script) => world.ask("POST", `/api/sandboxes/checkpoints/${checkpoint}/patches`, { script }),
    note: async (sandbox = id) => (await world.call("GET", `/api/sandboxes/${sandbox}/files?path=/note`)).text(),
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

test("a checkpoint is captured in the background, listed, and deleted with its snapshot", async () => {
  await using given = await setUp();
  const { world, id, make, list } = given;
  const made = await make({ name: "first" });
  const { createdAt, id: checkpoint, ...rest } = made;
  assert.match(checkpoint, /^[0-9a-f]{8}-[0-9a-f-]{27}$/);
  assert.ok(Date.parse(createdAt) > 0);
  assert.deepEqual(rest, {
    sandboxId: id,
    orgId: "org-default",
    name: "first",
    sandboxConfig: { templateID: "default", cpuCount: 1, memoryMB: 1024, diskMB: 20_480, networkEnabled: true },
    status: "ready",
    sizeBytes: 1_000_000,
    isPublic: false,
    kind: "full",
    promoteToFull: false,
  });
  assert.deepEqual(await list(), [made]);
  assert.deepEqual((await world.ask("GET", "/api/checkpoints"))[1], [made]);
  assert.equal((await world.get(id)).status, "running");

  const path = `/api/sandboxes/${id}/checkpoints/${checkpoint}`;
  assert.equal((await world.call("DELETE", path)).status, 204);
  assert.deepEqual(await list(), []);
  assert.equal(world.worker.host.snapshots.size, 0);
  const [status, { error }] = await world.ask("DELETE", path);
  assert.deepEqual([status, error], [404, "checkpoint not found"]);
});

test("the gate is held for the capture only: calls wait for it and continue", async () => {
  await using given = await setUp();
  const { world, id, note } = given;
  using held = new Held();
  world.worker.onCapture = held.here;
  const [status, made] = await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "first" });
  assert.deepEqual([status, made.status], [201, "processing"]);
  await held.reached;
  const reading = note();
  held.release();
  assert.equal(await reading, "first");
});

for (const [body, message] of [
  [{}, "name is required"],
  [{ name: "  " }, "name is required"],
  [{ name: "a", kind: "half" }, 'kind must be "full" or "disk_only"'],
  [
    { name: "a", retentionPolicy: { mode: "delete_oldest", maxCount: 0 } },
    "retentionPolicy.maxCount must be a whole number of at least 1",
  ],
] as const) {
  test(`a checkpoint ${JSON.stringify(body)} is refused`, async () => {
    await using given = await setUp();
    const { world, id, list } = given;
    const [status, { error }] = await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, body);
    assert.deepEqual([status, error], [400, message]);
    assert.deepEqual(await list(), []);
  });
}

test("only a running sandbox can be checkpointed", async () => {
  await using given = await setUp();
  const { world, id } = given;
  const refusal = [400, { error: "sandbox must be running to create a checkpoint", code: "invalid_argument" }];
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  assert.deepEqual(await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "a" }), refusal);
  await world.call("DELETE", `/api/sandboxes/${id}`);
  assert.deepEqual(await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "a" }), refusal);
});

test("a name can be used once; that of a failed or deleted checkpoint is free again", async () => {
  await using given = await setUp();
  const { world, id, make, list } = given;
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "the disk is full");
  };
  const failed = await make({ name: "mine" });
  assert.deepEqual([failed.status, failed.errorMsg], ["failed", "the disk is full"]);
  assert.ok(Date.parse(failed.failedAt) > 0);
  world.worker.onCapture = () => {};
  const good = await make({ name: "mine" });
  assert.equal(good.status, "ready");
  const [status, { error, code }] = await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "mine" });
  assert.deepEqual([status, error, code], [409, "checkpoint name already exists for this sandbox", "already_exists"]);
  assert.equal((await list()).length, 2);
  await world.call("DELETE", `/api/sandboxes/${id}/checkpoints/${good.id}`);
  assert.equal((await make({ name: "mine" })).status, "ready");
});

test("a sandbox has at most ten full checkpoints; failed ones and disk-only ones do not count", async () => {
  await using given = await setUp();
  const { world, id, make, list } = given;
  const path = `/api/sandboxes/${id}/checkpoints`;
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "not now");
  };
  await make({ name: "failed" });
  world.worker.onCapture = () => {};
  const replies = await Promise.all(Array.from({ length: 15 }, (_, n) => world.ask("POST", path, { name: `c${n}` })));
  const refused = replies.filter(([status]) => status === 400);
  assert.equal(refused.length, 5);
  assert.equal(refused[0]?.[1].error, "maximum 10 checkpoints per sandbox");
  assert.equal((await make({ name: "disk", kind: "disk_only" })).kind, "disk_only");
  await eventually("all are made", async () => (await list()).filter(({ status }) => status === "ready").length === 11);
});

test("a retention policy deletes the oldest of its kind when the new one is ready, not before", async () => {
  await using given = await setUp();
  const { world, make, list } = given;
  const retentionPolicy = { mode: "delete_oldest", maxCount: 2 };
  const names = async () => (await list()).filter(({ status }) => status === "ready").map(({ name }) => name);
  await make({ name: "disk", kind: "disk_only" });
  for (const name of ["a", "b", "c"]) await make({ name, retentionPolicy });
  assert.deepEqual(await names(), ["disk", "b", "c"]);
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "not now");
  };
  await make({ name: "d", retentionPolicy });
  assert.deepEqual(await names(), ["disk", "b", "c"]);
  await eventually("what gave way is gone", () => world.worker.host.snapshots.size === 3);

  world.worker.onCapture = () => {};
  for (let n = 0; n < 8; n++) await make({ name: `full${n}` });
  const [status] = await world.ask("POST", `/api/sandboxes/${given.id}/checkpoints`, { name: "too many" });
  assert.equal(status, 400);
  await make({ name: "newest", retentionPolicy: { mode: "delete_oldest" } });
  const left = await names();
  assert.deepEqual([left.length, left.includes("b"), left.includes("newest")], [11, false, true]);
});

test("a restore begins at once, every call waits for it, and the sandbox is as it was captured", async () => {
  await using given = await setUp();
  const { world, id, make, note } = given;
  const { id: checkpoint } = await make({ name: "first" });
  await world.call("PUT", `/api/sandboxes/${id}/files?path=/note`, "second");
  using held = new Held();
  world.worker.onStart = held.here;
  const [status, reply] = await world.ask("POST", `/api/sandboxes/${id}/checkpoints/${checkpoint}/restore`);
  assert.deepEqual([status, reply], [200, { sandboxId: id, checkpointId: checkpoint, status: "restoring" }]);
  assert.equal((await world.get(id)).status, "running");
  const calls = [note(), note()];
  await held.reached;
  held.release();
  assert.deepEqual(await Promise.all(calls), ["first", "first"]);
  const { from, generation } = world.worker.started.at(-1) ?? assert.fail();
  assert.deepEqual([from.kind === "snapshot" && from.identity, generation], ["same", 2]);
});

test("a failed restore says why, and the checkpoint can be restored again", async () => {
  await using given = await setUp();
  const { world, id, make, note } = given;
  const { id: checkpoint } = await make({ name: "first" });
  world.worker.onStart = () => {
    throw new SandboxError("unavailable", "no room");
  };
  const restore = () => world.ask("POST", `/api/sandboxes/${id}/checkpoints/${checkpoint}/restore`);
  assert.equal((await restore())[0], 200);
  await eventually("it has failed", async () => (await world.get(id)).status === "error");
  assert.equal((await world.get(id)).reason, "cannot restore checkpoint first: no room");
  world.worker.onStart = () => {};
  assert.equal((await restore())[0], 200);
  assert.equal(await note(), "first");
});

test("an impossible restore is refused with the reason", async () => {
  await using given = await setUp();
  const { world, id, make } = given;
  const restore = async (sandbox: string, checkpoint: string) => {
    const [status, { error }] = await world.ask("POST", `/api/sandboxes/${sandbox}/checkpoints/${checkpoint}/restore`);
    return [status, error];
  };
  const ready = await make({ name: "ready" });
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "not now");
  };
  const failed = await make({ name: "failed" });
  const other = await world.create();
  assert.deepEqual(await restore(id, "00000000-0000-4000-8000-000000000000"), [404, "checkpoint not found"]);
  assert.deepEqual(await restore(id, failed.id), [400, "checkpoint is not ready"]);
  assert.deepEqual(await restore(other, ready.id), [400, "checkpoint does not belong to this sandbox"]);
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  assert.deepEqual(await restore(id, ready.id), [400, "sandbox must be running to restore a checkpoint"]);
});

test("a fork has the checkpoint's contents and its own properties", async () => {
  await using given = await setUp();
  const { world, id, make, fork, note } = given;
  const { id: checkpoint } = await make({ name: "first" });
  await world.call("PUT", `/api/sandboxes/${id}/files?path=/note`, "second");
  const [status, forked] = await fork(checkpoint, {
    timeout: 60,
    envs: { B: "2", C: "2" },
    metadata: { purpose: "fork" },
    alias: "twin",
  });
  assert.equal(status, 201);
  assert.notEqual(forked.sandboxID, id);
  assert.deepEqual(
    [forked.status, forked.fromCheckpointId, forked.restoredFrom, forked.timeout, forked.memoryMB, forked.alias],
    ["running", checkpoint, "memory", 60, 1024, "twin"],
  );
  assert.deepEqual(forked.metadata, { owner: "me", purpose: "fork" });
  const { envs, from, organizationId } = world.worker.started.at(-1) ?? assert.fail();
  assert.deepEqual([envs, organizationId], [{ A: "1", B: "2", C: "2" }, "org-default"]);
  assert.equal(from.kind === "snapshot" && from.identity, "new");
  assert.equal(await note(forked.sandboxID), "first");
  assert.equal(await note(), "second");
});

test("a fork of another size, or from a disk-only checkpoint, reports that it was booted", async () => {
  await using given = await setUp();
  const { make, fork } = given;
  const full = await make({ name: "full" });
  const [, larger] = await fork(full.id, { memoryMB: 2048 });
  assert.deepEqual([larger.memoryMB, larger.restoredFrom], [2048, "disk"]);
  assert.ok(larger.restoredBecause);
  const disks = await make({ name: "disks", kind: "disk_only" });
  assert.equal((await fork(disks.id))[1].restoredFrom, "disk");
});

test("a fork waits for a checkpoint in progress and is refused for a failed one", async () => {
  await using given = await setUp();
  const { world, id, fork } = given;
  const create = async (name: string) => (await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name }))[1].id;
  using held = new Held();
  world.worker.onCapture = held.here;
  const soon = fork(await create("soon"));
  await held.reached;
  held.release();
  assert.equal((await soon)[0], 201);
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "the disk is full");
  };
  const [status, { error }] = await fork(await create("never"));
  assert.deepEqual([status, error], [400, "checkpoint is not ready: it failed: the disk is full"]);
  assert.equal((await fork("00000000-0000-4000-8000-000000000000"))[0], 404);
});

test("64 concurrent forks make 64 sandboxes, and one idempotency key makes one", async () => {
  await using given = await setUp();
  const { world, make, note } = given;
  const { id: checkpoint } = await make({ name: "first" });
  const fork = (init?: RequestInit) => world.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`, {}, init);
  const forks = await Promise.all(Array.from({ length: 64 }, () => fork()));
  assert.deepEqual(new Set(forks.map(([status]) => status)), new Set([201]));
  assert.equal(new Set(forks.map(([, { sandboxID }]) => sandboxID)).size, 64);
  assert.equal(await note(), "first");
  const headers = { "idempotency-key": "one" };
  const same = await Promise.all([fork({ headers }), fork({ headers })]);
  assert.deepEqual(new Set(same.map(([status]) => status)), new Set([200, 201]));
});

test("checkpoints outlive their sandbox, and forks outlive their checkpoint", async () => {
  await using given = await setUp();
  const { world, id, make, list, fork, note } = given;
  const { id: checkpoint } = await make({ name: "first" });
  await world.call("DELETE", `/api/sandboxes/${id}`);
  assert.equal((await list()).length, 1);
  const [status, forked] = await fork(checkpoint);
  assert.equal(status, 201);
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}/checkpoints/${checkpoint}`)).status, 204);
  assert.equal(world.worker.host.snapshots.size, 0);
  assert.equal(await note(forked.sandboxID), "first");
  await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/hibernate`);
  assert.equal(await note(forked.sandboxID), "first");
});

test("patches run in order before a fork is answered, and new ones once at the next wake", async (t) => {
  await using given = await setUp();
  const { world, make, fork, patch } = given;
  const directory = await mkdtemp(join(tmpdir(), "patches-"));
  t.after(() => rm(directory, { recursive: true }));
  const log = join(directory, "log");
  const logged = () => readFile(log, "utf8");
  const { id: checkpoint } = await make({ name: "first" });
  const [status, { patch: first }] = await patch(checkpoint, `echo one >> ${log}`);
  assert.equal(status, 201);
  assert.deepEqual(
    [first.checkpointId, first.sequence, first.strategy, first.description],
    [checkpoint, 1, "on_wake", ""],
  );
  await patch(checkpoint, `echo two >> ${log}`);

  const [, forked] = await fork(checkpoint);
  assert.deepEqual([forked.patchError, await logged()], [undefined, "one\ntwo\n"]);
  await patch(checkpoint, `echo three >> ${log}`);
  const sleepAndWake = async () => {
    await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/hibernate`);
    return (await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/wake`, {}))[1];
  };
  await sleepAndWake();
  assert.equal(await logged(), "one\ntwo\nthree\n");
  await sleepAndWake();
  assert.equal(await logged(), "one\ntwo\nthree\n");
  // The checkpoint's own sandbox is never patched.
  await world.ask("POST", `/api/sandboxes/${given.id}/hibernate`);
  await world.ask("POST", `/api/sandboxes/${given.id}/wake`, {});
  assert.equal(await logged(), "one\ntwo\nthree\n");
});

test("a failed patch stops the rest, and the next wake retries it", async () => {
  await using given = await setUp();
  const { world, make, fork, patch } = given;
  const { id: checkpoint } = await make({ name: "first" });
  await patch(checkpoint, "true");
  const [, { patch: broken }] = await patch(checkpoint, "echo out; echo why >&2; exit 3");
  await patch(checkpoint, "true");
  const before = world.worker.started.length;
  const [status, forked] = await fork(checkpoint);
  assert.equal(status, 201);
  assert.match(forked.patchError, /^patch 2 exited with 3: [^]*(out\nwhy|why\nout)$/);
  assert.equal(world.worker.started.length, before + 1);
  assert.equal((await world.get(forked.sandboxID)).patchError, forked.patchError);

  const path = `/api/sandboxes/checkpoints/${checkpoint}/patches`;
  assert.equal((await world.call("DELETE", `${path}/${broken.id}`)).status, 204);
  assert.equal((await world.ask("DELETE", `${path}/${broken.id}`))[0], 404);
  const [, patches] = await world.ask("GET", path);
  assert.deepEqual(
    patches.map(({ sequence }: { sequence: number }) => sequence),
    [1, 3],
  );
  await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/hibernate`);
  const [, woken] = await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/wake`, {});
  assert.equal(woken.patchError, undefined);
});

test("the number of a deleted patch is not reused, so that no patch is skipped", async () => {
  await using given = await setUp();
  const { world, make, fork, patch } = given;
  const { id: checkpoint } = await make({ name: "first" });
  const [, { patch: first }] = await patch(checkpoint, "true");
  const [, forked] = await fork(checkpoint);
  await world.call("DELETE", `/api/sandboxes/checkpoints/${checkpoint}/patches/${first.id}`);
  const [, { patch: second }] = await patch(checkpoint, "exit 7");
  assert.equal(second.sequence, 2);
  await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/hibernate`);
  const [, woken] = await world.ask("POST", `/api/sandboxes/${forked.sandboxID}/wake`, {});
  assert.match(woken.patchError, /^patch 2 exited with 7/);
  const [status, { error }] = await patch(checkpoint, " ");
  assert.deepEqual([status, error], [400, "script is required"]);
  assert.equal((await patch("00000000-0000-4000-8000-000000000000", "true"))[0], 404);
});

test("another organization sees nothing until a checkpoint is public, and then forks it without its secrets", async () => {
  await using given = await setUp();
  const { world, id, make } = given;
  const { id: checkpoint } = await make({ name: "first" });
  const key = "osb_of-another-organization";
  await using others = await startForOthers(world, key);
  const theirs = (method: string, path: string) =>
    others.ask(method, path, undefined, { headers: { "x-api-key": key } });
  const forkPath = `/api/sandboxes/from-checkpoint/${checkpoint}`;
  const publish = `/api/sandboxes/checkpoints/${checkpoint}/publish`;
  for (const [method, path] of [
    ["GET", `/api/sandboxes/${id}`],
    ["DELETE", `/api/sandboxes/${id}`],
    ["GET", `/api/sandboxes/${id}/network/log`],
    ["POST", `/api/sandboxes/${id}/preview/rotate`],
    ["DELETE", `/api/sandboxes/${id}/preview/80`],
    ["GET", `/api/sandboxes/${id}/checkpoints`],
    ["GET", `/api/sandboxes/${id}/checkpoints/${checkpoint}`],
    ["DELETE", `/api/sandboxes/${id}/checkpoints/${checkpoint}`],
    ["POST", `/api/sandboxes/${id}/checkpoints/${checkpoint}/restore`],
    ["GET", `/api/sandboxes/checkpoints/${checkpoint}/patches`],
    ["POST", publish],
    ["POST", forkPath],
  ] as const) {
    assert.equal((await theirs(method, path))[0], 404, `${method} ${path}`);
  }
  assert.deepEqual((await theirs("GET", "/api/checkpoints"))[1], []);

  const [, published] = await world.ask("POST", publish);
  assert.equal(published.isPublic, true);
  const [status, forked] = await theirs("POST", forkPath);
  assert.equal(status, 201);
  assert.deepEqual(forked.metadata, {});
  assert.deepEqual(others.worker.started.at(-1)?.envs, {});
  assert.equal(others.worker.started.at(-1)?.organizationId, "org-other");
  assert.equal((await theirs("DELETE", `/api/sandboxes/${id}/checkpoints/${checkpoint}`))[0], 404);

  await world.ask("POST", publish.replace("/publish", "/unpublish"));
  assert.equal((await theirs("POST", forkPath))[0], 404);
});

test("a fork by another organization runs the patches from before the fork, and none from after it", async (t) => {
  await using given = await setUp();
  const { world, make, fork, patch } = given;
  const directory = await mkdtemp(join(tmpdir(), "patches-"));
  t.after(() => rm(directory, { recursive: true }));
  const log = join(directory, "log");
  const logged = () => readFile(log, "utf8");
  const { id: checkpoint } = await make({ name: "first" });
  await patch(checkpoint, `echo before >> ${log}`);
  const key = "osb_of-another-organization";
  await using others = await startForOthers(world, key);
  const theirs = (method: string, path: string) =>
    others.ask(method, path, undefined, { headers: { "x-api-key": key } });
  await world.ask("POST", `/api/sandboxes/checkpoints/${checkpoint}/publish`);
  const [status, foreign] = await theirs("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`);
  assert.deepEqual([status, await logged()], [201, "before\n"]);
  await world.ask("POST", `/api/sandboxes/checkpoints/${checkpoint}/unpublish`);

  await sleep(2);
  await patch(checkpoint, `echo after >> ${log}`);
  assert.equal((await theirs("POST", `/api/sandboxes/${foreign.sandboxID}/hibernate`))[0], 200);
  assert.equal((await theirs("POST", `/api/sandboxes/${foreign.sandboxID}/wake`))[0], 200);
  assert.equal(await logged(), "before\n");
  // The owner's own forks go on as before.
  await fork(checkpoint);
  assert.equal(await logged(), "before\nbefore\nafter\n");
});

/** A control plane over the same database and worker that knows the key of another organization. */
async function startForOthers(world: TestControlPlane, key: string): Promise<TestControlPlane> {
  const database = await openDatabase(world.database);
  await database.insertInto("organizations").values({ id: "org-other", name: "other", created_at: 0 }).execute();
  await database
    .insertInto("api_keys")
    .values({
      id: "k",
      organization_id: "org-other",
      name: "theirs",
      key_hash: createHash("sha256").update(key).digest("hex"),
      key_prefix: key.slice(0, 8),
      created_at: 0,
    })
    .execute();
  await database.destroy();
  const worker = new TestWorker("worker-2", new TestHost(world.worker.host.snapshots));
  return startForTest({ worker, database: world.database, isWorkerAlive: () => true, storedKeys: true });
}
