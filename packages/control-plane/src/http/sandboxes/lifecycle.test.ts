import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "#testing/held.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest, type TestControlPlane } from "#testing/start-for-test.ts";
import { TestWorker } from "#testing/test-worker.ts";

const post = (world: TestControlPlane, id: string, verb: string, body?: unknown) =>
  world.ask("POST", `/api/sandboxes/${id}/${verb}`, body);
const write = async (world: TestControlPlane, id: string, path: string, text: string) =>
  (await world.call("PUT", `/api/sandboxes/${id}/files?path=${path}`, text)).status;
const read = async (world: TestControlPlane, id: string, path: string) => {
  const response = await world.call("GET", `/api/sandboxes/${id}/files?path=${path}`);
  return [response.status, await response.text()];
};
const onlySnapshot = ({ worker }: TestControlPlane): SnapshotId => {
  const [id, ...others] = worker.host.snapshots.keys();
  assert.deepEqual(others, []);
  return id ?? assert.fail("there is no snapshot");
};

test("a hibernated sandbox wakes unchanged under the same id", async () => {
  await using world = await startForTest();
  const id = await world.create({ timeout: 600 });
  await write(world, id, "/note", "kept");

  const [status, reply] = await post(world, id, "hibernate");
  assert.equal(status, 200);
  assert.deepEqual(reply, {
    sandboxID: id,
    status: "hibernated",
    hibernationKey: onlySnapshot(world),
    sizeBytes: 1_000_000,
  });
  assert.deepEqual(world.worker.live, []);
  const asleep = await world.get(id);
  assert.deepEqual([asleep.status, asleep.workerID, asleep.endAt], ["hibernated", "", undefined]);
  assert.deepEqual((await world.ask("GET", "/api/sandboxes"))[1], []);
  const [, listed] = await world.ask("GET", "/api/sandboxes?status=hibernated");
  assert.deepEqual([listed.length, listed[0].sandboxID], [1, id]);

  const [woken, sandbox] = await post(world, id, "wake", { timeout: 60 });
  assert.equal(woken, 200);
  assert.deepEqual(
    [sandbox.sandboxID, sandbox.status, sandbox.restoredFrom, sandbox.timeout, sandbox.sandboxDomain],
    [id, "running", "memory", 60, "sandbox.test"],
  );
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  assert.deepEqual(
    world.worker.started.map(({ generation }) => generation),
    [1, 2],
  );
  await eventually("its snapshot is removed", () => world.worker.host.snapshots.size === 0);
});

test("only a running sandbox can be hibernated, and only a hibernated one woken", async () => {
  await using world = await startForTest();
  const id = await world.create();
  assert.deepEqual(await post(world, id, "wake", {}), [
    400,
    { error: "sandbox is not hibernated", code: "invalid_argument" },
  ]);
  await post(world, id, "hibernate");
  for (const verb of ["hibernate", "reboot", "power-cycle"]) {
    assert.deepEqual(await post(world, id, verb), [400, { error: "sandbox is not running", code: "invalid_argument" }]);
  }
  await world.call("DELETE", `/api/sandboxes/${id}`);
  assert.equal((await post(world, id, "hibernate"))[0], 400);
  assert.equal((await post(world, id, "wake"))[0], 400);
  for (const verb of ["hibernate", "wake", "reboot", "power-cycle"]) {
    assert.equal((await post(world, "sb-00000000", verb))[0], 404);
  }
});

test("any call wakes a hibernated sandbox, which keeps its idle timeout", async () => {
  await using world = await startForTest();
  const id = await world.create({ timeout: 600 });
  await write(world, id, "/note", "kept");
  await post(world, id, "hibernate");
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  const { status, timeout } = await world.get(id);
  assert.deepEqual([status, timeout], ["running", 600]);
});

test("500 calls to a hibernated sandbox cause one wake, and all are answered", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  await post(world, id, "hibernate");
  const replies = await Promise.all(Array.from({ length: 500 }, () => read(world, id, "/note")));
  assert.deepEqual(
    replies.filter(([status, text]) => status !== 200 || text !== "kept"),
    [],
  );
  assert.equal(world.worker.started.length, 2);
});

test("a failed wake leaves the sandbox hibernated, says why, and can be retried", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  await post(world, id, "hibernate");
  const snapshot = onlySnapshot(world);
  world.worker.onStart = () => {
    throw new SandboxError("unavailable", "no room for it");
  };
  assert.equal((await read(world, id, "/note"))[0], 503);
  const { status, reason } = await world.get(id);
  assert.deepEqual([status, reason], ["hibernated", "it could not be woken: no room for it"]);
  assert.equal(onlySnapshot(world), snapshot);

  world.worker.onStart = () => {};
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  const awake = await world.get(id);
  assert.deepEqual([awake.status, awake.reason], ["running", undefined]);
  assert.equal(world.worker.started.at(-1)?.generation, 3);
});

test("a damaged snapshot is refused, kept, and never becomes an empty sandbox", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await post(world, id, "hibernate");
  const snapshot = world.worker.host.snapshots.get(onlySnapshot(world)) ?? assert.fail();
  snapshot.corrupt = true;
  const [status, { code }] = await post(world, id, "wake");
  assert.deepEqual([status, code], [409, "incompatible"]);
  assert.equal((await read(world, id, "/note"))[0], 409);
  const asleep = await world.get(id);
  assert.equal(asleep.status, "hibernated");
  assert.match(asleep.reason ?? "", /^it could not be woken: snapshot .* is damaged/);
  onlySnapshot(world);
});

test("a missing snapshot is reported", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await post(world, id, "hibernate");
  world.worker.host.snapshots.clear();
  const [status, { error }] = await post(world, id, "wake");
  assert.equal(status, 404);
  assert.match(error, /^no active hibernation found: /);
  assert.equal((await world.get(id)).status, "hibernated");
});

test("memory that cannot be restored here boots the disks, and the answer says so", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  await post(world, id, "hibernate");
  const snapshot = world.worker.host.snapshots.get(onlySnapshot(world)) ?? assert.fail();
  snapshot.memoryUnusableBecause = "it is of another processor";
  const [, woken] = await post(world, id, "wake");
  assert.deepEqual([woken.restoredFrom, woken.restoredBecause], ["disk", "it is of another processor"]);
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  assert.equal((await world.get(id)).restoredFrom, "disk");
});

test("the snapshot is removed only after the row says that the sandbox runs", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await post(world, id, "hibernate");
  let statusThen: string | undefined;
  world.worker.onRemoveSnapshot = async () => {
    ({ status: statusThen } = await world.get(id));
  };
  await post(world, id, "wake");
  await eventually("it is removed", () => world.worker.host.snapshots.size === 0);
  assert.equal(statusThen, "running");
});

test("deleting a hibernated sandbox removes its snapshot", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await post(world, id, "hibernate");
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  assert.equal(world.worker.host.snapshots.size, 0);
  assert.equal((await world.get(id)).status, "stopped");
});

test("a failed hibernation leaves the sandbox running, and a later one succeeds", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  world.worker.onHibernate = () => {
    throw new SandboxError("wrong_state", "the guest does not quiesce", {
      resource: "sandbox",
      state: "running",
      allowed: [],
    });
  };
  assert.equal((await post(world, id, "hibernate"))[0], 409);
  assert.equal((await world.get(id)).status, "running");
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  world.worker.onHibernate = () => {};
  assert.equal((await post(world, id, "hibernate"))[0], 200);
});

test("the limit counts active sandboxes, and a wake beyond it is refused until one is free", async () => {
  await using world = await startForTest({ limits: { maxSandboxes: 2 } });
  const first = await world.create();
  await world.create();
  await post(world, first, "hibernate");
  const third = await world.create();
  const [status, { code }] = await post(world, first, "wake");
  assert.deepEqual([status, code], [429, "quota_exceeded"]);
  assert.equal((await read(world, first, "/note"))[0], 429);
  assert.equal((await world.get(first)).status, "hibernated");
  await world.call("DELETE", `/api/sandboxes/${third}`);
  assert.equal((await post(world, first, "wake"))[0], 200);
});

test("an idle sandbox is hibernated; one in use, one without a timeout and an ephemeral one are not", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const idle = await world.create({ timeout: 60 });
  const used = await world.create({ timeout: 60 });
  const forever = await world.create({ timeout: 0 });
  const ephemeral = await world.create({ timeout: 60, ephemeral: true });
  clock.advance(59);
  await write(world, used, "/a", "x");
  clock.advance(1);
  const statusOf = async (id: string) => (await world.get(id)).status;
  await eventually("it is hibernated", async () => (await statusOf(idle)) === "hibernated");
  await eventually("it is deleted", async () => (await statusOf(ephemeral)) === "stopped");
  assert.deepEqual([await statusOf(used), await statusOf(forever)], ["running", "running"]);
  assert.equal((await world.get(ephemeral)).reason, "it was idle for 60 seconds");
});

test("a sandbox is deleted by its idle timeout where it asks for that, and after its maximum lifetime", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const killed = await world.create({ timeout: 60, onTimeout: "kill" });
  const mortal = await world.create({ timeout: 0, maxLifetime: 100 });
  const asleep = await world.create({ timeout: 0, maxLifetime: 100 });
  await post(world, asleep, "hibernate");
  const { deleteAt, createdAt } = await world.get(mortal);
  assert.equal(Date.parse(deleteAt ?? "") - Date.parse(createdAt), 100_000);
  clock.advance(60);
  await eventually("the idle one is deleted", async () => (await world.get(killed)).status === "stopped");
  assert.equal((await world.get(killed)).reason, "it was idle for 60 seconds");
  clock.advance(39);
  await write(world, mortal, "/a", "x");
  assert.equal((await world.get(mortal)).status, "running");
  clock.advance(1);
  for (const id of [mortal, asleep]) {
    await eventually("it is deleted although it is used", async () => (await world.get(id)).status === "stopped");
    assert.equal((await world.get(id)).reason, "its maximum lifetime has passed");
  }
});

test("a command that keeps its sandbox awake does so until it ends, and others do not", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const [awake, asleep] = [await world.create({ timeout: 60 }), await world.create({ timeout: 60 })];
  const start = async (id: string, keepAwake: boolean): Promise<string> =>
    (await post(world, id, "exec", { cmd: "sleep", args: ["1000"], keepAwake }))[1].sessionID;
  const session = await start(awake, true);
  await start(asleep, false);
  clock.advance(60);
  await eventually("the other is hibernated", async () => (await world.get(asleep)).status === "hibernated");
  await eventually("its timeout begins anew", async () => {
    return Date.parse((await world.get(awake)).endAt ?? "") > clock.now();
  });
  assert.equal((await world.get(awake)).status, "running");
  await post(world, awake, `exec/${session}/kill`);
  await eventually("the command has ended", async () => {
    const [, sessions] = await world.ask("GET", `/api/sandboxes/${awake}/exec`);
    return sessions.every(({ running }: { running: boolean }) => !running);
  });
  clock.advance(60);
  await eventually("it is hibernated", async () => (await world.get(awake)).status === "hibernated");
});

test("a sandbox that hangs while it is hibernated keeps no other idle sandbox running", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const hanging = await world.create({ timeout: 60 });
  const other = await world.create({ timeout: 120 });
  using held = new Held();
  world.worker.onHibernate = (id) => (id === hanging ? held.here() : undefined);
  clock.advance(60);
  await held.reached;
  clock.advance(60);
  await eventually("the other is hibernated", async () => (await world.get(other)).status === "hibernated");
  held.release();
  await eventually("the first is hibernated", async () => (await world.get(hanging)).status === "hibernated");
});

test("a wake restarts the idle timeout", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const id = await world.create({ timeout: 60 });
  clock.advance(60);
  await eventually("it is hibernated", async () => (await world.get(id)).status === "hibernated");
  await write(world, id, "/a", "x");
  clock.advance(59);
  assert.equal((await world.get(id)).endAt, new Date(clock.now() + 1000).toISOString());
  clock.advance(1);
  await eventually("it is hibernated again", async () => (await world.get(id)).status === "hibernated");
});

test("a hypervisor that cannot hibernate deletes idle sandboxes; a transient failure is retried later", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock, sweepMs: 5 } });
  const id = await world.create({ timeout: 60 });
  let attempts = 0;
  world.worker.onHibernate = () => {
    attempts++;
    throw new SandboxError("unavailable", "the disk is busy");
  };
  clock.advance(60);
  await eventually("it was tried", () => attempts === 1);
  await eventually("it runs", async () => (await world.get(id)).status === "running");
  clock.advance(59);
  assert.equal((await world.get(id)).status, "running");
  world.worker.onHibernate = () => {
    throw new SandboxError("not_supported", "this hypervisor cannot hibernate");
  };
  clock.advance(1);
  await eventually("it is deleted", async () => (await world.get(id)).status === "stopped");
  assert.equal(attempts, 1);
  const { reason } = await world.get(id);
  assert.equal(reason, "it was idle for 60 seconds, and this hypervisor cannot hibernate");
});

test("calls during a hibernation wait for its end and then wake the sandbox", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  using held = new Held();
  world.worker.onHibernate = held.here;
  const hibernating = post(world, id, "hibernate");
  await held.reached;
  const reading = read(world, id, "/note");
  assert.equal((await world.get(id)).status, "hibernated");
  held.release();
  assert.equal((await hibernating)[0], 200);
  assert.deepEqual(await reading, [200, "kept"]);
});

test("a machine that ends by itself makes its sandbox an error, and its disks can be booted", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  world.worker.crash(id, "killed by signal 9");
  await eventually("the row says so", async () => (await world.get(id)).status === "error");
  assert.equal((await world.get(id)).reason, "the machine ended: killed by signal 9");
  const [status, text] = await read(world, id, "/note");
  assert.deepEqual([status, JSON.parse(String(text)).code], [410, "gone"]);
  assert.deepEqual(world.worker.stopped, []);

  assert.deepEqual(await post(world, id, "power-cycle"), [204, undefined]);
  const { status: now, reason, restoredFrom } = await world.get(id);
  assert.deepEqual([now, reason, restoredFrom], ["running", undefined, "disk"]);
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);

  world.worker.crash(id, "again");
  await eventually("the row says so again", async () => (await world.get(id)).status === "error");
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  assert.equal((await world.get(id)).status, "stopped");
  assert.equal(world.worker.host.machines.size, 0);
});

test("after a guest's reset the next call boots its disks", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await write(world, id, "/note", "kept");
  world.worker.crash(id, "the machine panicked: guest-reset", "reset");
  await eventually("the row says so", async () => (await world.get(id)).status === "error");
  assert.match((await world.get(id)).reason ?? "", /guest-reset: the next call boots its disks$/);
  assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  const { status, reason, restoredFrom } = await world.get(id);
  assert.deepEqual([status, reason, restoredFrom], ["running", undefined, "disk"]);
});

for (const [verb, hook] of [
  ["reboot", "onReboot"],
  ["power-cycle", "onPowerCycle"],
] as const) {
  test(`a ${verb} keeps id and disks, calls wait for it, and a failed one keeps the disks`, async () => {
    await using world = await startForTest();
    const id = await world.create();
    await write(world, id, "/note", "kept");
    using held = new Held();
    world.worker[hook] = held.here;
    const restarting = post(world, id, verb);
    await held.reached;
    assert.equal((await world.get(id)).status, "running");
    const reading = read(world, id, "/note");
    held.release();
    assert.deepEqual(await restarting, [204, undefined]);
    assert.deepEqual(await reading, [200, "kept"]);

    world.worker[hook] = () => {
      throw new SandboxError("timed_out", "the guest does not answer");
    };
    assert.equal((await post(world, id, verb))[0], 504);
    const { status, reason } = await world.get(id);
    assert.equal(status, "error");
    assert.match(reason ?? "", /the guest does not answer$/);
    world.worker[hook] = () => {};
    assert.equal((await post(world, id, "power-cycle"))[0], 204);
    assert.deepEqual(await read(world, id, "/note"), [200, "kept"]);
  });
}

test("the end of a replaced machine does not end its sandbox", async () => {
  await using world = await startForTest();
  const id = await world.create();
  const { end } = world.worker.host.machine(id);
  await post(world, id, "power-cycle");
  end.resolve({ reason: "exited", detail: "late news" });
  await post(world, id, "reboot");
  assert.equal((await world.get(id)).status, "running");
});

test("a shutdown hibernates all sandboxes in parallel, and they wake under the next server", async () => {
  const worker = new TestWorker();
  const together = 5;
  let ids: SandboxId[] = [];
  await using first = await startForTest({ worker, atEnd: () => "hibernate" });
  {
    ids = await Promise.all(Array.from({ length: together }, () => first.create()));
    await first.create({ ephemeral: true });
    const all = Promise.withResolvers<void>();
    let waiting = 0;
    worker.onHibernate = () => {
      waiting++;
      if (waiting === together) all.resolve();
      return all.promise;
    };
    await first.plane[Symbol.asyncDispose]();
    assert.deepEqual(worker.live, []);
  }
  await using second = await startForTest({
    worker: new TestWorker("worker-2", worker.host),
    database: first.database,
  });
  const states = await Promise.all(ids.map(async (id) => (await second.get(id)).status));
  assert.deepEqual(new Set(states), new Set(["hibernated"]));
  assert.equal((await read(second, ids[0] ?? "", "/"))[0], 404);
  assert.equal((await second.get(ids[0] ?? "")).status, "running");
});

test("a sandbox that cannot be hibernated in time runs on, and the next server adopts it", async () => {
  const worker = new TestWorker();
  await using first = await startForTest({ worker, atEnd: () => "hibernate", endWithinMs: 20 });
  const id = await first.create();
  await write(first, id, "/note", "kept");
  worker.onHibernate = (_id, _snapshot, signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  await first.plane[Symbol.asyncDispose]();
  assert.deepEqual([worker.live, worker.stopped], [[id], []]);
  await using second = await startForTest({
    worker: new TestWorker("worker-2", worker.host),
    database: first.database,
  });
  assert.deepEqual(await read(second, id, "/note"), [200, "kept"]);
});

test("a replaced server leaves its machines running, and the next one adopts them", async () => {
  const worker = new TestWorker();
  await using first = await startForTest({ worker, atEnd: () => "leave" });
  const id = await first.create({ timeout: 600 });
  await write(first, id, "/note", "kept");
  await first.plane[Symbol.asyncDispose]();
  assert.deepEqual([worker.live, worker.stopped], [[id], []]);
  await using second = await startForTest({
    worker: new TestWorker("worker-2", worker.host),
    database: first.database,
  });
  const { status, workerID } = await second.get(id);
  assert.deepEqual([status, workerID], ["running", "worker-2"]);
  assert.deepEqual(await read(second, id, "/note"), [200, "kept"]);
  second.worker.crash(id, "it fell over");
  await eventually("its end is noticed", async () => (await second.get(id)).status === "error");
});
