import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "../../packages/control-plane/src/testing/held.ts";
import { type Json, settled, startRowsWorld } from "./rows-world.ts";

suite("rows and workers of a fleet", () => {
  test("a hibernated sandbox wakes on the worker with its snapshot, although another has more room", async () => {
    await using world = await startRowsWorld(2);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    assert.equal(node.worker.host.snapshots.size, 1);
    node.host = { ...node.host, freeMemoryMib: 2000 };
    const woken = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.equal(woken.status, 200);
    assert.deepEqual(node.worker.live, [id]);
    await eventually("the snapshot is removed", () => node.worker.host.snapshots.size === 0);
  });

  test("a checkpoint is forked on the worker with its snapshot", async () => {
    await using world = await startRowsWorld(2);
    const { id, node } = await world.create();
    const { reply } = await world.ask("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
    node.host = { ...node.host, freeMemoryMib: 2000 };
    const fork = await world.ask("POST", `/sandboxes/from-checkpoint/${reply.id}`, {});
    assert.equal(fork.status, 201, JSON.stringify(fork.reply));
    assert.equal(node.worker.live.length, 2);
  });

  test("a worker without room is not asked, and a fleet without room answers 503 with Retry-After", async () => {
    await using world = await startRowsWorld(2);
    const [small, large] = world.nodes;
    small!.host = { ...small!.host, freeMemoryMib: 100 };
    await settled();
    for (const _ of [1, 2, 3]) assert.equal((await world.create()).node, large);
    large!.host = { ...large!.host, freeDiskShare: 0.01 };
    await settled();
    const refused = await world.ask("POST", "/sandboxes", { templateID: "minimal" });
    assert.equal(refused.status, 503);
    assert.equal(refused.reply.code, "no_capacity");
    assert.match(refused.reply.error, /its disk is full/);
    assert.ok(Number(refused.retryAfter) > 0);
  });

  test("a hibernation whose answer is lost leaves a hibernated sandbox", async () => {
    await using world = await startRowsWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onDone = async (step) => (step === "hibernate" ? await held.here() : undefined);
    const hibernating = world.ask("POST", `/sandboxes/${id}/hibernate`);
    await held.reached;
    node.cable.cut();
    assert.equal((await hibernating).status, 503);
    assert.notEqual(await world.status(id), "running");
    held.release();
    node.cable.mend();
    // The public status of both is hibernated; only the right row can be woken.
    const wake = (): Promise<Json> => world.ask("POST", `/sandboxes/${id}/wake`, {});
    await eventually("the row is right", async () => (await wake()).status === 200);
    assert.deepEqual(node.worker.live, [id]);
  });

  test("a hibernation that the worker gives up with its connection leaves a running sandbox", async () => {
    await using world = await startRowsWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onHibernate = held.here;
    const hibernating = world.ask("POST", `/sandboxes/${id}/hibernate`);
    await held.reached;
    node.cable.cut();
    assert.equal((await hibernating).status, 503);
    await settled();
    held.release();
    node.cable.mend();
    await eventually("the row is right", async () => (await world.status(id)) === "running");
    assert.deepEqual(node.worker.live, [id]);
    assert.equal(node.worker.host.snapshots.size, 0);
  });

  test("sandboxes of a silent worker stay running in their rows, and calls to them are refused at once", async () => {
    await using world = await startRowsWorld(2);
    const { id, node } = await world.create();
    node.cable.stall();
    await world.untilUp(1);
    const { status, reply } = await world.ask("POST", `/sandboxes/${id}/exec/run`, { cmd: "true" });
    assert.equal(status, 503);
    assert.match(reply.error, /has not answered since .*its sandboxes are kept/);
    assert.equal(await world.status(id), "running");
    assert.notEqual((await world.create()).node, node);
    node.cable.mend();
    await world.untilUp(2);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/exec/run`, { cmd: "true" })).status, 200);
  });

  test("a machine that ended while its worker was silent is recorded when it is back", async () => {
    await using world = await startRowsWorld(1);
    const { id, node } = await world.create();
    node.cable.cut();
    await world.untilUp(0);
    node.worker.host.machines.delete(id);
    node.cable.mend();
    await eventually("the row is right", async () => (await world.status(id)) === "error");
  });

  test("a machine of a sandbox that was deleted meanwhile is removed when its worker is back", async () => {
    await using world = await startRowsWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onStop = held.here;
    const deleting = world.ask("DELETE", `/sandboxes/${id}`);
    await held.reached;
    node.cable.cut();
    assert.equal((await deleting).status, 503);
    node.worker.onStop = () => {};
    node.cable.mend();
    await world.untilUp(1);
    assert.equal((await world.ask("DELETE", `/sandboxes/${id}`)).status, 204);
    assert.deepEqual(node.worker.live, []);
  });
});
