import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "../../packages/control-plane/src/testing/held.ts";
import { type Node, type RowsWorld, settled, startRowsWorld } from "./rows-world.ts";

/** A busy host answers late, and these tests cut connections instead of stalling them. */
const options = { objectStore: "s3://bucket/snapshots", pingMs: 5000 };

suite("sandboxes of a fleet that move", () => {
  test("a migration moves a running sandbox with its memory, and calls wait for it", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    const other = world.nodes.find((each) => each !== node)!;
    await write(world, id, "kept");
    const moving = world.ask("POST", `/sandboxes/${id}/migrate`, {});
    const read = readNote(world, id);
    const { status, reply } = await moving;
    assert.equal(status, 200, JSON.stringify(reply));
    assert.equal(reply.sourceWorker, node.id);
    assert.equal(reply.targetWorker, other.id);
    assert.equal(await read, "kept");
    assert.deepEqual([node.worker.live, other.worker.live], [[], [id]]);
    assert.equal((await world.ask("GET", `/sandboxes/${id}`)).reply.restoredFrom, "memory");
    await eventually("no snapshot is left", () => world.stored.size === 0 && copies(world) === 0);
  });

  test("a migration names its worker, and is refused before the sandbox is interrupted", async () => {
    await using world = await startRowsWorld(3, options);
    const { id, node } = await world.create();
    const [target, full] = world.nodes.filter((each) => each !== node);
    full!.host = { ...full!.host, freeMemoryMib: 100 };
    await settled();
    const asleep: string[] = [];
    node.worker.onHibernate = (sandbox) => asleep.push(sandbox);
    for (const [targetWorker, status] of [
      [full!.id, 503],
      [node.id, 503],
      ["wk-none", 404],
    ] as const) {
      const refused = await world.ask("POST", `/sandboxes/${id}/migrate`, { targetWorker });
      assert.equal(refused.status, status, JSON.stringify(refused.reply));
    }
    assert.deepEqual(asleep, []);
    const moved = await world.ask("POST", `/sandboxes/${id}/migrate`, { targetWorker: target!.id });
    assert.equal(moved.reply.targetWorker, target!.id);
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/migrate`, {})).status, 400);
  });

  test("a migration whose upload fails leaves the sandbox running where it was", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    node.worker.onUpload = () => {
      throw new Error("the store is down");
    };
    assert.equal((await world.ask("POST", `/sandboxes/${id}/migrate`, {})).status, 500);
    assert.equal(await world.status(id), "running");
    assert.deepEqual(node.worker.live, [id]);
  });

  test("without an object store a sandbox does not move, and runs on", async () => {
    await using world = await startRowsWorld(2, { pingMs: options.pingMs });
    const { id, node } = await world.create();
    const refused = await world.ask("POST", `/sandboxes/${id}/migrate`, {});
    assert.equal(refused.status, 501);
    assert.match(refused.reply.error, /has no object store/);
    assert.deepEqual(node.worker.live, [id]);
    await assert.rejects(world.fleet("POST", `/workers/${node.id}/drain`, {}), /has no object store/);
  });

  test("a drain empties a worker: running sandboxes move, hibernated ones wake elsewhere, nothing is refused", async () => {
    await using world = await startRowsWorld(2, options);
    const all = await Promise.all(Array.from({ length: 6 }, () => world.create()));
    const [node, other] = world.nodes;
    const here = all.filter((each) => each.node === node).map(({ id }) => id);
    assert.ok(here.length >= 2);
    await Promise.all(all.map(({ id }) => write(world, id, `note of ${id}`)));
    const [asleep, ...running] = here;
    await world.ask("POST", `/sandboxes/${asleep}/hibernate`);
    await world.fleet("POST", `/workers/${node!.id}/drain`, {});
    assert.equal((await world.create()).node, other);
    const left = async () =>
      (await world.fleet("GET", "/workers")).find((each: { id: string }) => each.id === node!.id).left;
    await eventually("nothing is left on the worker", async () => {
      const { sandboxes, snapshots } = await left();
      // Calls go on meanwhile.
      for (const id of running) assert.equal(await readNote(world, id), `note of ${id}`);
      return sandboxes + snapshots === 0;
    });
    await eventually("the worker has no files", () => node!.worker.host.snapshots.size === 0);
    assert.deepEqual(node!.worker.live, []);
    assert.equal(await readNote(world, asleep!), `note of ${asleep}`);
    assert.ok(other!.worker.live.includes(asleep as (typeof here)[number]));

    await world.fleet("POST", `/workers/${node!.id}/cordon`, { cordoned: false });
    await settled();
    assert.equal((await world.create()).node, node);
  });

  test("a worker whose host is about to stop hibernates its sandboxes, which wake elsewhere", async () => {
    await using world = await startRowsWorld(2, options);
    const all = await Promise.all(Array.from({ length: 8 }, () => world.create()));
    const [node, other] = world.nodes;
    const here = all.filter((each) => each.node === node).map(({ id }) => id);
    assert.ok(here.length >= 2);
    await Promise.all(all.map(({ id }) => write(world, id, `note of ${id}`)));
    const evacuate = async () => await world.fleet("POST", `/workers/${node!.id}/evacuate`, {});
    assert.deepEqual([(await evacuate()).wasCordoned, (await evacuate()).wasCordoned], [false, true]);
    await eventually("the worker has nothing that would be lost", async () => {
      const { sandboxes, snapshots } = await evacuate();
      return sandboxes + snapshots === 0;
    });
    assert.deepEqual(node!.worker.live, []);
    for (const id of here) assert.equal(await world.status(id), "hibernated");
    assert.equal((await world.create()).node, other);
    node!.cable.cut();
    await world.untilUp(1);
    for (const id of here) assert.equal(await readNote(world, id), `note of ${id}`);
  });

  test("a drained worker that is stopped is removed; one that answers, or has something, is not", async () => {
    await using world = await startRowsWorld(2, options);
    const { id, node } = await world.create();
    const remove = async (lost: boolean) => await world.fleet("POST", `/workers/${node.id}/remove`, { lost });
    await assert.rejects(remove(true), /answers: drain it/);
    node.cable.cut();
    await world.untilUp(1);
    await assert.rejects(remove(false), /1 sandboxes are on worker/);
    node.cable.mend();
    await world.untilUp(2);
    await world.fleet("POST", `/workers/${node.id}/drain`, {});
    await eventually("the sandbox has left", () => node.worker.live.length === 0);
    await settled();
    node.cable.cut();
    await world.untilUp(1);
    assert.deepEqual(await remove(false), { recovered: 0, lost: 0 });
    assert.equal((await world.fleet("GET", "/workers")).length, 1);
    assert.equal(await world.status(id), "running");
  });

  test("sandboxes of a lost worker continue from what is stored, and the answer says from which state", async () => {
    await using world = await startRowsWorld(2, options);
    const all = await Promise.all(Array.from({ length: 8 }, () => world.create()));
    const [node, other] = world.nodes;
    const here = all.filter((each) => each.node === node).map(({ id }) => id);
    const [saved, asleep, unsaved] = here;
    assert.ok(unsaved !== undefined);
    for (const id of here) await write(world, id, "first");
    const { reply: checkpoint } = await world.ask("POST", `/sandboxes/${saved}/checkpoints`, { name: "one" });
    await world.ask("POST", `/sandboxes/${asleep}/hibernate`);
    await eventually("both snapshots are stored", () => world.stored.size === 2);
    await settled();
    await write(world, saved!, "second");
    node!.cable.cut();
    await world.untilUp(1);
    const removed = await world.fleet("POST", `/workers/${node!.id}/remove`, { lost: true });
    assert.deepEqual(removed, { recovered: 1, lost: here.length - 2 });

    assert.equal(await readNote(world, asleep!), "first");
    assert.equal(await readNote(world, saved!), "first");
    const { reply } = await world.ask("GET", `/sandboxes/${saved}`);
    assert.match(reply.recoveredFrom, new RegExp(`worker ${node!.id} was lost: this is checkpoint one of 20`));
    const { reply: lost } = await world.ask("GET", `/sandboxes/${unsaved}`);
    assert.equal(lost.status, "error");
    assert.match(lost.reason, /no state of the sandbox is stored elsewhere/);
    for (const id of [saved!, asleep!]) assert.ok(other!.worker.live.includes(id));
    // The checkpoint outlives the wake from it.
    const fork = await world.ask("POST", `/sandboxes/from-checkpoint/${checkpoint.id}`, {});
    assert.equal(fork.status, 201, JSON.stringify(fork.reply));
    await world.ask("POST", `/sandboxes/${saved}/hibernate`);
    assert.equal((await world.ask("GET", `/sandboxes/${saved}`)).reply.recoveredFrom, undefined);
  });

  test("a worker with a lease is declared lost only when its machines are surely paused", async () => {
    await using world = await startRowsWorld(2, { ...options, leaseSeconds: 3600 });
    const { id, node } = await world.create();
    node.cable.cut();
    await world.untilUp(1);
    const remove = world.fleet("POST", `/workers/${node.id}/remove`, { lost: true });
    await assert.rejects(remove, /may still run: it pauses them by itself within 36\d\d s/);
    assert.equal(await world.status(id), "running");
  });

  test("sandboxes of a worker that has surely paused its machines continue elsewhere by themselves, and the answer says from which state", async () => {
    await using world = await startRowsWorld(2, { ...options, pingMs: 2000, leaseSeconds: 1, lostAfterMs: 1000 });
    const all = await Promise.all(Array.from({ length: 6 }, () => world.create()));
    const heldBy = (node: Node) => all.filter((each) => each.node === node);
    const [node, other] = world.nodes.toSorted((a, b) => heldBy(b).length - heldBy(a).length);
    const [used, unused, unstored] = heldBy(node!);
    assert.ok(used !== undefined && unused !== undefined && unstored !== undefined, "three are on one worker");
    for (const { id } of [used, unused]) {
      await write(world, id, "stored");
      await world.ask("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
    }
    await eventually("the checkpoints are stored", () => world.stored.size === 2);
    for (const { id } of [used, unused, unstored]) await write(world, id, "later");
    node!.cable.cut();
    await world.untilUp(1);
    await eventually("it continues", async () => (await world.status(used.id)) === "hibernated");
    assert.equal(await readNote(world, used.id), "stored");
    const { reply } = await world.ask("GET", `/sandboxes/${used.id}`);
    assert.match(reply.recoveredFrom, /worker wk-\d was lost: this is checkpoint one of /);
    assert.ok(other!.worker.live.includes(used.id));
    assert.equal(await world.status(unstored.id), "running", "it waits for its worker");
    // Newer than the machine that the worker still has.
    await write(world, used.id, "newer");
    await world.ask("POST", `/sandboxes/${used.id}/hibernate`);
    node!.cable.mend();
    await world.untilUp(2);
    await eventually("the worker has ended what runs elsewhere", () => !node!.worker.live.includes(used.id));
    assert.equal(await readNote(world, used.id), "newer");
    for (const { id } of [unused, unstored]) {
      assert.equal(await readNote(world, id), "later", "nobody has used it meanwhile: it loses nothing");
      assert.ok(node!.worker.live.includes(id));
    }
    assert.equal((await world.ask("GET", `/sandboxes/${unused.id}`)).reply.recoveredFrom, undefined);
  });

  test("a wake whose answer is lost starts no second machine elsewhere", async () => {
    await using world = await startRowsWorld(2, options);
    const { id } = await world.create();
    await write(world, id, "kept");
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    await eventually("the snapshot is stored", () => world.stored.size === 1);
    using held = new Held();
    for (const { worker } of world.nodes) worker.onDone = async (step) => (step === "start" ? held.here() : undefined);
    const waking = world.ask("POST", `/sandboxes/${id}/wake`, {});
    await held.reached;
    const node = world.nodes.find(({ worker }) => worker.live.includes(id))!;
    const other = world.nodes.find((each) => each !== node)!;
    node.cable.cut();
    assert.equal((await waking).status, 503);
    held.release();
    for (const { worker } of world.nodes) worker.onDone = () => undefined;
    await world.untilUp(1);
    const again = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.notEqual(again.status, 200, "its machine may run on the worker that does not answer");
    assert.deepEqual(other.worker.live, []);
    node.cable.mend();
    await world.untilUp(2);
    await eventually("it runs", async () => (await world.status(id)) === "running");
    assert.equal(await readNote(world, id), "kept");
    const live = world.nodes.flatMap(({ worker }) => worker.live);
    assert.deepEqual(live, [id]);
  });

  test("a lost worker that comes back keeps no machine of a sandbox that continues elsewhere", async () => {
    await using world = await startRowsWorld(2, options);
    const all = await Promise.all(Array.from({ length: 4 }, () => world.create()));
    const [node, other] = world.nodes;
    const { id } = all.find((each) => each.node === node)!;
    await world.ask("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
    await eventually("the checkpoint is stored", () => world.stored.size === 1);
    await settled();
    node!.cable.cut();
    await world.untilUp(1);
    await world.fleet("POST", `/workers/${node!.id}/remove`, { lost: true });
    await write(world, id, "after");
    assert.ok(node!.worker.live.includes(id), "the machine runs on behind the broken line");
    node!.cable.mend();
    await world.fleet("POST", "/join", { url: node!.cable.url });
    await world.untilUp(2);
    await eventually("the worker has ended it", () => !node!.worker.live.includes(id));
    assert.equal(await readNote(world, id), "after");
    assert.ok(other!.worker.live.includes(id));
  });
});

function copies(world: RowsWorld): number {
  return world.nodes.reduce((sum, { worker }) => sum + worker.host.snapshots.size, 0);
}

async function write(world: RowsWorld, id: string, text: string): Promise<void> {
  assert.equal((await world.put(`/sandboxes/${id}/files?path=/note`, text)).status, 204);
}

async function readNote(world: RowsWorld, id: string): Promise<string> {
  const { status, reply } = await world.ask("GET", `/sandboxes/${id}/files?path=/note`);
  assert.equal(status, 200, JSON.stringify(reply));
  return reply;
}
