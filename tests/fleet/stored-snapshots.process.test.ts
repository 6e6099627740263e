import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "../../packages/control-plane/src/testing/held.ts";
import { type RowsWorld, settled, startRowsWorld } from "./rows-world.ts";

/** A busy host answers late, and these tests cut connections instead of stalling them. */
const options = { objectStore: "s3://bucket/snapshots", pingMs: 5000 };

/** Waits until this many snapshots are stored. */
async function untilStored(world: RowsWorld, count: number): Promise<void> {
  await eventually(`${count} snapshots are stored`, () => world.stored.size === count);
  // The row says so a moment later.
  await settled();
}

suite("snapshots of a fleet in its object store", () => {
  test("a sandbox that is hibernated on one worker wakes on another when the first is gone", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    const other = world.nodes.find((each) => each !== node)!;
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    node.cable.cut();
    await world.untilUp(1);
    const woken = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.equal(woken.status, 200, JSON.stringify(woken.reply));
    assert.deepEqual(other.worker.live, [id]);
    assert.equal(other.worker.started.at(-1)?.generation, 2);

    node.cable.mend();
    await world.untilUp(2);
    await settled();
    assert.deepEqual(node.worker.live, []);
    assert.equal(await world.status(id), "running");
  });

  test("a wake prefers the worker that still has the snapshot", async () => {
    await using world = await startRowsWorld(3, options);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    node.host = { ...node.host, freeMemoryMib: 2000 };
    await settled();
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(node.worker.live, [id]);
  });

  test("a full worker's sandbox wakes on another, which fetches the snapshot", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    node.host = { ...node.host, freeMemoryMib: 100 };
    await settled();
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(node.worker.live, []);
    await eventually("no copy is left anywhere", () => world.stored.size === 0 && copies(world) === 0);
  });

  test("a checkpoint is forked on every worker at once", async () => {
    await using world = await startRowsWorld(3, options);
    const { id } = await world.create();
    const { reply } = await world.ask("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
    await untilStored(world, 1);
    for (const node of world.nodes) node.host = { ...node.host, freeMemoryMib: 1500, totalMemoryMib: 1500 };
    await settled();
    const forks = await Promise.all(
      world.nodes.map(() => world.ask("POST", `/sandboxes/from-checkpoint/${reply.id}`, {})),
    );
    assert.deepEqual(
      forks.map(({ status }) => status),
      forks.map(() => 201),
      JSON.stringify(forks.map((fork) => fork.reply)),
    );
    assert.ok(world.nodes.filter(({ worker }) => worker.live.length > 0).length >= 2);
    assert.equal((await world.ask("DELETE", `/sandboxes/${id}/checkpoints/${reply.id}`)).status, 204);
    await eventually("no copy is left anywhere", () => world.stored.size === 0 && copies(world) === 0);
  });

  test("an upload that fails is repeated, and its sandbox wakes where its only copy is", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    let failures = 0;
    node.worker.onUpload = () => {
      failures += 1;
      throw new Error("the store is down");
    };
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await eventually("an upload fails", () => failures > 0);
    await settled();
    assert.equal(failures, 1, "the next attempt waits");
    node.cable.cut();
    await world.untilUp(1);
    const refused = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.equal(refused.status, 503);
    assert.match(refused.reply.error, new RegExp(`worker ${node.id} has not answered since`));
    node.cable.mend();
    await world.untilUp(2);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(node.worker.live, [id]);
  });

  test("a sandbox that is deleted during its upload leaves nothing in the store", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onUpload = held.here;
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await held.reached;
    const deleting = world.ask("DELETE", `/sandboxes/${id}`);
    await settled();
    held.release();
    assert.equal((await deleting).status, 204);
    await eventually("no copy is left anywhere", () => world.stored.size === 0 && copies(world) === 0);
  });

  test("a worker whose disk fills gives up the local copies of stored snapshots, which wake all the same", async () => {
    await using world = await startRowsWorld(1, options);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    assert.equal(copies(world), 1);
    node.host = { ...node.host, freeDiskShare: 0.1 };
    await eventually("the local copy is removed", () => copies(world) === 0);
    assert.equal(world.stored.size, 1);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(node.worker.live, [id]);
  });

  test("the object store is swept again and again", async () => {
    await using world = await startRowsWorld(2, options);
    const sweeps = (): number => world.nodes.reduce((sum, { worker }) => sum + worker.sweeps, 0);
    await eventually("a sweep", () => sweeps() > 0);
    const before = sweeps();
    await eventually("another sweep", () => sweeps() > before);
  });

  test("a worker with another object store is not asked to fetch", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    const other = world.nodes.find((each) => each !== node)!;
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    other.worker.description = { ...other.worker.description, objectStore: "s3://another/" };
    other.cable.cut();
    await world.untilUp(1);
    other.cable.mend();
    await world.untilUp(2);
    node.host = { ...node.host, freeMemoryMib: 100 };
    await settled();
    const refused = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.equal(refused.status, 503);
    assert.match(refused.reply.error, /cannot fetch it from s3:\/\/bucket\/snapshots/);
  });

  test("a cordoned worker's hibernated sandboxes wake elsewhere, or on it when nowhere else", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await untilStored(world, 1);
    await world.fleet("POST", `/workers/${node.id}/cordon`, { cordoned: true });
    const other = world.nodes.find((each) => each !== node)!;
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(other.worker.live, [id]);
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await world.fleet("POST", `/workers/${other.id}/cordon`, { cordoned: true });
    assert.equal((await world.ask("POST", `/sandboxes/${id}/wake`, {})).status, 200);
    assert.deepEqual(other.worker.live, [id]);
  });
});

function copies(world: RowsWorld): number {
  return world.nodes.reduce((sum, { worker }) => sum + worker.host.snapshots.size, 0);
}
