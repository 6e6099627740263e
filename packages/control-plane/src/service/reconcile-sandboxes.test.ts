import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "#testing/held.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startAfterCrash, startForTest, type TestControlPlane } from "#testing/start-for-test.ts";
import { TestWorker } from "#testing/test-worker.ts";

// A control plane is killed at every point of an operation, and the next one reconciles.

const post = (world: TestControlPlane, id: string, verb: string, body?: unknown) =>
  world.ask("POST", `/api/sandboxes/${id}/${verb}`, body);
const write = (world: TestControlPlane, id: string, text: string) =>
  world.call("PUT", `/api/sandboxes/${id}/files?path=/note`, text);
const read = async (world: TestControlPlane, id: string) => {
  const response = await world.call("GET", `/api/sandboxes/${id}/files?path=/note`);
  return [response.status, await response.text()];
};
/** A request that is never answered. */
const abandoned = (request: Promise<unknown>): void => {
  request.catch(() => {});
};

async function worldWithNote(): Promise<{ world: TestControlPlane; id: SandboxId }> {
  const world = await startForTest();
  const id = await world.create({ timeout: 600 });
  await write(world, id, "kept");
  return { world, id };
}

test("killed while sandboxes run: the next server adopts them", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await using second = await startAfterCrash(first);
  const { status, workerID, timeout } = await second.get(id);
  assert.deepEqual([status, workerID, timeout], ["running", "worker-2", 600]);
  assert.deepEqual(await read(second, id), [200, "kept"]);
  assert.deepEqual(await post(second, id, "hibernate").then(([code]) => code), 200);
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed, and the host rebooted: the next call boots the disks", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  first.worker.host.machine(id).running = false;
  await using second = await startAfterCrash(first);
  const { status, reason } = await second.get(id);
  assert.equal(status, "error");
  assert.equal(reason, "its machine ended while no server ran: the next call boots its disks");
  const replies = await Promise.all([read(second, id), read(second, id), read(second, id)]);
  assert.deepEqual(replies, [
    [200, "kept"],
    [200, "kept"],
    [200, "kept"],
  ]);
  const now = await second.get(id);
  assert.deepEqual([now.status, now.reason, now.restoredFrom], ["running", undefined, "disk"]);
});

test("killed, and nothing of the machine is left: the row says so and can be deleted", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  first.worker.host.machines.clear();
  await using second = await startAfterCrash(first);
  const { status, reason } = await second.get(id);
  assert.deepEqual([status, reason], ["error", "the server that ran it exited, and its machine with it"]);
  assert.equal((await read(second, id))[0], 410);
  assert.equal((await post(second, id, "power-cycle"))[0], 404);
  assert.equal((await second.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  assert.equal((await second.get(id)).status, "stopped");
});

test("killed when a machine had ended and its disks are gone: a checkpoint of it can still be restored", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  const [, { id: checkpoint }] = await post(first, id, "checkpoints", { name: "c" });
  const path = `/api/sandboxes/${id}/checkpoints/${checkpoint}`;
  await eventually("it is ready", async () => (await first.ask("GET", path))[1].status === "ready");
  first.worker.crash(id, "it fell over");
  await eventually("the row says so", async () => (await first.get(id)).status === "error");
  first.worker.host.machines.clear();
  await using second = await startAfterCrash(first);
  const { status, reason } = await second.get(id);
  assert.deepEqual([status, reason], ["error", "the machine ended: it fell over"]);
  assert.equal((await second.ask("POST", `${path}/restore`))[0], 200);
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed when a machine had ended: its disks can still be booted", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  first.worker.crash(id, "it fell over");
  await eventually("the row says so", async () => (await first.get(id)).status === "error");
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).reason, "the machine ended: it fell over");
  assert.equal((await read(second, id))[0], 410);
  assert.equal((await post(second, id, "power-cycle"))[0], 204);
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a create: nothing is left, and the same idempotency key creates a sandbox", async () => {
  await using first = await startForTest();
  using held = new Held();
  const started = Promise.withResolvers<SandboxId>();
  first.worker.onDone = (_step, id) => {
    started.resolve(id);
    return held.here();
  };
  const headers = { "idempotency-key": "k1" };
  abandoned(first.call("POST", "/api/sandboxes", {}, { headers }));
  const id = await started.promise;
  await using second = await startAfterCrash(first);
  assert.equal((await second.call("GET", `/api/sandboxes/${id}`)).status, 404);
  assert.deepEqual(second.worker.live, []);
  const [status, { sandboxID }] = await second.ask("POST", "/api/sandboxes", {}, { headers });
  assert.equal(status, 201);
  assert.deepEqual(second.worker.live, [sandboxID]);
});

test("killed during a hibernation, before its snapshot exists: the sandbox runs", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  using held = new Held();
  first.worker.onHibernate = held.here;
  abandoned(post(first, id, "hibernate"));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "running");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a hibernation, before its snapshot exists, with the machine: its disks are booted", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  using held = new Held();
  first.worker.onHibernate = held.here;
  abandoned(post(first, id, "hibernate"));
  await held.reached;
  first.worker.host.machine(id).running = false;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "error");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a hibernation, when its snapshot exists: it is hibernated", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  using held = new Held();
  first.worker.onDone = held.here;
  abandoned(post(first, id, "hibernate"));
  await held.reached;
  await using second = await startAfterCrash(first);
  const { status, workerID } = await second.get(id);
  assert.deepEqual([status, workerID], ["hibernated", ""]);
  const [, woken] = await post(second, id, "wake");
  assert.equal(woken.restoredFrom, "memory");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed while sandboxes are hibernated: they stay hibernated, and any server can wake them", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await post(first, id, "hibernate");
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "hibernated");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a wake, before the machine starts: it is hibernated", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await post(first, id, "hibernate");
  using held = new Held();
  first.worker.onStart = held.here;
  abandoned(post(first, id, "wake"));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "hibernated");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a wake, when the machine runs: the sandbox runs, and its snapshot is removed", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await post(first, id, "hibernate");
  using held = new Held();
  first.worker.onDone = held.here;
  abandoned(post(first, id, "wake"));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "running");
  assert.equal(second.worker.host.snapshots.size, 0);
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed after a wake, before its snapshot was removed: the next server removes it", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await post(first, id, "hibernate");
  using held = new Held();
  first.worker.onRemoveSnapshot = held.here;
  await post(first, id, "wake");
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal(second.worker.host.snapshots.size, 0);
  assert.equal((await second.get(id)).status, "running");
});

test("killed during a power-cycle, when the old machine has ended: the next call boots the disks", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  using held = new Held();
  first.worker.onPowerCycle = held.here;
  abandoned(post(first, id, "power-cycle"));
  await held.reached;
  first.worker.host.machine(id).running = false;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "error");
  assert.deepEqual(await read(second, id), [200, "kept"]);
});

test("killed during a delete: it is deleted", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  using held = new Held();
  first.worker.onStop = held.here;
  abandoned(first.call("DELETE", `/api/sandboxes/${id}`));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "stopped");
  assert.deepEqual(second.worker.live, []);
});

test("killed while a hibernated sandbox is deleted: its snapshot is removed too", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await post(first, id, "hibernate");
  using held = new Held();
  first.worker.onStop = held.here;
  abandoned(first.call("DELETE", `/api/sandboxes/${id}`));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.equal((await second.get(id)).status, "stopped");
  assert.equal(second.worker.host.snapshots.size, 0);
});

for (const point of ["before the old machine ends", "between the machines", "when the new machine runs"] as const) {
  test(`killed during a restore, ${point}: the row matches what is found, and the checkpoint stays usable`, async () => {
    const { world: first, id } = await worldWithNote();
    await using _ = first;
    const [, { id: checkpoint }] = await post(first, id, "checkpoints", { name: "good" });
    const path = `/api/sandboxes/${id}/checkpoints/${checkpoint}`;
    await eventually("it is ready", async () => (await first.ask("GET", path))[1].status === "ready");
    await write(first, id, "changed");
    using held = new Held();
    if (point === "before the old machine ends") first.worker.onStop = held.here;
    if (point === "between the machines") first.worker.onStart = held.here;
    if (point === "when the new machine runs") {
      first.worker.onDone = (step) => (step === "start" ? held.here() : undefined);
    }
    abandoned(first.ask("POST", `${path}/restore`));
    await held.reached;

    await using second = await startAfterCrash(first);
    const { status, reason } = await second.get(id);
    const interrupted = "the restore of checkpoint good was interrupted: restore it again";
    switch (point) {
      case "before the old machine ends":
        assert.deepEqual([status, reason], ["running", interrupted]);
        assert.deepEqual(await read(second, id), [200, "changed"]);
        break;
      case "between the machines":
        assert.deepEqual([status, reason], ["error", interrupted]);
        assert.equal((await read(second, id))[0], 410);
        break;
      case "when the new machine runs":
        assert.deepEqual([status, reason], ["running", undefined]);
        assert.deepEqual(await read(second, id), [200, "kept"]);
    }
    assert.deepEqual((await second.ask("POST", `${path}/restore`))[0], 200);
    assert.deepEqual(await read(second, id), [200, "kept"]);
    assert.equal((await second.get(id)).reason, undefined);
  });
}

for (const [point, status] of [
  ["before its snapshot exists", "failed"],
  ["when its snapshot exists", "ready"],
] as const) {
  test(`killed during a checkpoint, ${point}: it is ${status}, and the sandbox runs`, async () => {
    const { world: first, id } = await worldWithNote();
    await using _ = first;
    using held = new Held();
    if (status === "failed") first.worker.onCapture = held.here;
    else first.worker.onDone = held.here;
    const [, { id: checkpoint }] = await post(first, id, "checkpoints", { name: "c" });
    await held.reached;
    await using second = await startAfterCrash(first);
    const [, seen] = await second.ask("GET", `/api/sandboxes/${id}/checkpoints/${checkpoint}`);
    assert.equal(seen.status, status);
    if (status === "failed") assert.equal(seen.errorMsg, "the server exited while the checkpoint was being made");
    assert.equal(second.worker.host.snapshots.size, status === "ready" ? 1 : 0);
    assert.deepEqual(await read(second, id), [200, "kept"]);
  });
}

test("killed during a fork: no partial fork is visible, and its source is unaffected", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  const [, { id: checkpoint }] = await post(first, id, "checkpoints", { name: "c" });
  using held = new Held();
  first.worker.onDone = (step) => (step === "start" ? held.here() : undefined);
  abandoned(first.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`));
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.deepEqual(second.worker.live, [id]);
  const [, listed] = await second.ask("GET", "/api/sandboxes?status=all");
  assert.deepEqual(
    listed.map((sandbox: { sandboxID: string }) => sandbox.sandboxID),
    [id],
  );
  assert.equal((await second.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint}`))[0], 201);
});

test("the idle time continues from where it was when the server was killed", async () => {
  const clock = new ManualClock();
  await using first = await startForTest({ tuning: { clock } });
  const id = await first.create({ timeout: 60 });
  clock.advance(50);
  await using second = await startAfterCrash(first, { tuning: { clock, sweepMs: 5 } });
  assert.equal((await second.get(id)).status, "running");
  // The stored deadline may be up to ten seconds later than the real one.
  clock.advance(20);
  await eventually("it is hibernated", async () => (await second.get(id)).status === "hibernated");
});

test("a sandbox of another live server is not touched", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  await using second = await startForTest({
    worker: new TestWorker("worker-2"),
    database: first.database,
    isWorkerAlive: () => true,
  });
  const { status, workerID } = await second.get(id);
  assert.deepEqual([status, workerID], ["running", "worker-1"]);
  const [code, reply] = await post(second, id, "hibernate");
  assert.equal(code, 503);
  assert.equal(reply.error, `sandbox ${id} runs under another server process (worker-1): call that server`);
  assert.equal((await read(second, id))[0], 503);
  assert.equal((await second.call("DELETE", `/api/sandboxes/${id}`)).status, 503);
  assert.deepEqual(await read(first, id), [200, "kept"]);
});

test("an ephemeral server adopts and reports no other server's sandboxes; its own end with it", async () => {
  const { world: first, id } = await worldWithNote();
  await using _ = first;
  const embedded = { database: first.database, ephemeral: true };
  let own: SandboxId;
  {
    await using second = await startForTest({ ...embedded, worker: new TestWorker("worker-2") });
    assert.equal((await second.get(id)).status, "running");
    own = await second.create();
  }
  await using third = await startForTest({ ...embedded, worker: new TestWorker("worker-3") });
  assert.equal((await third.get(own)).status, "stopped");
  const abandonedOne = await third.create();
  await using fourth = await startForTest({ ...embedded, worker: new TestWorker("worker-4") });
  assert.equal((await fourth.get(abandonedOne)).status, "stopped");
  assert.equal((await fourth.get(id)).status, "running");
});
