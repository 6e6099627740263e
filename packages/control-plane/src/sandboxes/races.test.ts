import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { createCheckpoint } from "#checkpoints/create-checkpoint.ts";
import { forkCheckpoint } from "#checkpoints/fork-checkpoint.ts";
import { restoreCheckpoint } from "#checkpoints/restore-checkpoint.ts";
import { contextForTest, type TestContext } from "#testing/context-for-test.ts";
import { Held } from "#testing/held.ts";
import { deleteSandbox } from "./delete-sandbox.ts";
import { hibernateSandbox } from "./hibernate-sandbox.ts";
import { powerCycleSandbox } from "./power-cycle-sandbox.ts";
import type { Sandbox } from "./sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { wakeSandbox } from "./wake-sandbox.ts";

// Simultaneous requests: one runs first, and the other is answered according to the resulting state.

const never = new AbortController().signal;
const wanted = { name: "c", kind: "full", promoteToFull: false } as const;

/** The operations, on one sandbox. */
function on({ context, organizationId }: TestContext, { id }: Sandbox) {
  return {
    hibernate: () => hibernateSandbox(context, organizationId, id),
    wake: (idleTimeoutSeconds?: number) =>
      wakeSandbox(context, { organizationId, id, ...(idleTimeoutSeconds === undefined ? {} : { idleTimeoutSeconds }) }),
    use: () => useSandbox(context, organizationId, id, never),
    kill: () => deleteSandbox(context, organizationId, id),
    powerCycle: () => powerCycleSandbox(context, organizationId, id),
    checkpoint: (name = "c") => createCheckpoint(context, { organizationId, id, wanted: { ...wanted, name } }),
    restore: (checkpointId: string) => restoreCheckpoint(context, { organizationId, id, checkpointId }),
    state: async () => (await context.stores.sandboxes.find(id))?.state,
  };
}

const lostTo = (state: string) => (error: unknown) =>
  isSandboxError(error, "wrong_state") && error.details.state === state;

test("concurrent wakes and calls share one wake, and the last timeout holds", async () => {
  await using world = await contextForTest();
  const sandbox = await world.create();
  const { hibernate, wake, use } = on(world, sandbox);
  await hibernate();
  const [first, second, ...uses] = await Promise.all([wake(), wake(60), use(), use()]);
  for (const call of uses) call[Symbol.dispose]();
  assert.equal(world.worker.started.length, 2);
  assert.deepEqual([first.sandbox.state, second.sandbox.state], ["running", "running"]);
  assert.equal((await world.context.stores.sandboxes.find(sandbox.id))?.idleTimeoutSeconds, 60);
});

test("a failed wake is one attempt, and all its callers get that failure", async () => {
  await using world = await contextForTest();
  const { hibernate, use, state } = on(world, await world.create());
  await hibernate();
  using held = new Held();
  world.worker.onStart = async () => {
    await held.here();
    throw new SandboxError("unavailable", "no room for it");
  };
  const early = Array.from({ length: 20 }, () => assert.rejects(use(), /no room for it/));
  await held.reached;
  const late = Array.from({ length: 20 }, () => assert.rejects(use(), /no room for it/));
  // Every caller must already wait for the wake.
  await world.context.stores.sandboxes.listHeld();
  held.release();
  await Promise.all([...early, ...late]);
  assert.equal(world.worker.started.length, 2);
  assert.equal(await state(), "hibernated");
});

test("a delete before a wake: the wake reports that the sandbox is stopped, and nothing starts", async () => {
  await using world = await contextForTest();
  const { hibernate, kill, wake, use, state } = on(world, await world.create());
  await hibernate();
  const killing = kill();
  const waking = assert.rejects(wake(), lostTo("stopped"));
  const calling = assert.rejects(use(), (error) => isSandboxError(error, "gone"));
  await Promise.all([killing, waking, calling]);
  assert.equal(await state(), "stopped");
  assert.equal(world.worker.started.length, 1);
  assert.equal(world.worker.host.snapshots.size, 0);
});

test("a wake before a delete: the woken sandbox is stopped", async () => {
  await using world = await contextForTest();
  const { hibernate, kill, wake, state } = on(world, await world.create());
  await hibernate();
  using held = new Held();
  world.worker.onStart = held.here;
  const waking = wake();
  await held.reached;
  const killing = kill();
  held.release();
  assert.equal((await waking).sandbox.state, "running");
  await killing;
  assert.equal(await state(), "stopped");
  assert.deepEqual(world.worker.live, []);
  await world.context.operations.background.idle();
  assert.equal(world.worker.host.snapshots.size, 0);
});

test("two hibernations: the second reports that the sandbox is hibernated", async () => {
  await using world = await contextForTest();
  const { hibernate, state } = on(world, await world.create());
  await Promise.all([hibernate(), assert.rejects(hibernate(), lostTo("hibernated"))]);
  assert.equal(await state(), "hibernated");
  assert.equal(world.worker.host.snapshots.size, 1);
});

test("a checkpoint during a hibernation is refused; one queued before it is made first", async () => {
  await using world = await contextForTest();
  const sandbox = await world.create();
  const { hibernate, checkpoint, state } = on(world, sandbox);
  using held = new Held();
  world.worker.onCapture = held.here;
  const { id } = await checkpoint("before");
  const hibernating = hibernate();
  await held.reached;
  assert.equal(await state(), "running");
  using heldAgain = new Held();
  world.worker.onHibernate = heldAgain.here;
  held.release();
  await heldAgain.reached;
  assert.equal((await world.context.stores.checkpoints.find(id))?.status, "ready");
  await assert.rejects(checkpoint("during"), lostTo("hibernating"));
  heldAgain.release();
  assert.equal((await hibernating).state, "hibernated");
  const listed = await world.context.stores.checkpoints.listOf(world.organizationId, sandbox.id);
  assert.deepEqual(
    listed.map(({ name, status }) => [name, status]),
    [["before", "ready"]],
  );
});

test("a fork succeeds during the hibernation of its source", async () => {
  await using world = await contextForTest();
  const { hibernate, checkpoint } = on(world, await world.create());
  const { id: checkpointId } = await checkpoint();
  await world.context.operations.background.idle();
  using held = new Held();
  world.worker.onHibernate = held.here;
  const hibernating = hibernate();
  await held.reached;
  const fork = { envs: {}, metadata: {}, alias: "" };
  const { sandbox } = await forkCheckpoint(
    world.context,
    { organizationId: world.organizationId, checkpointId, fork },
    never,
  );
  assert.equal(sandbox.state, "running");
  held.release();
  assert.equal((await hibernating).state, "hibernated");
});

test("a delete before a queued checkpoint: the checkpoint fails and says so", async () => {
  await using world = await contextForTest();
  const { kill, checkpoint } = on(world, await world.create());
  using held = new Held();
  world.worker.onStop = held.here;
  // The checkpoint is asked for first, but its capture comes after the kill's turn at the gate.
  const asking = checkpoint();
  const killing = kill();
  await held.reached;
  const { id } = await asking;
  held.release();
  await killing;
  await world.context.operations.background.idle();
  const { status, error } = (await world.context.stores.checkpoints.find(id)) ?? assert.fail();
  assert.deepEqual([status, error], ["failed", "the sandbox is stopped"]);
});

test("a hibernation before a restore: the restore reports the state", async () => {
  await using world = await contextForTest();
  const { hibernate, checkpoint, restore, state } = on(world, await world.create());
  const { id } = await checkpoint();
  await world.context.operations.background.idle();
  await Promise.all([hibernate(), assert.rejects(restore(id), lostTo("hibernated"))]);
  assert.equal(await state(), "hibernated");
});

test("a restore before a hibernation: the restored sandbox is hibernated", async () => {
  await using world = await contextForTest();
  const { hibernate, checkpoint, restore, state } = on(world, await world.create());
  const { id } = await checkpoint();
  await world.context.operations.background.idle();
  using held = new Held();
  world.worker.onStart = held.here;
  await restore(id);
  await held.reached;
  assert.equal(await state(), "restarting");
  const hibernating = hibernate();
  held.release();
  await hibernating;
  assert.equal(await state(), "hibernated");
});

test("two power-cycles run one after the other", async () => {
  await using world = await contextForTest();
  const sandbox = await world.create();
  const { powerCycle, state } = on(world, sandbox);
  await Promise.all([powerCycle(), powerCycle()]);
  assert.equal(await state(), "running");
  assert.equal((await world.context.stores.sandboxes.find(sandbox.id))?.generation, 3);
});

test("a sandbox left in a transitional state can still be deleted", async () => {
  await using world = await contextForTest();
  for (const move of ["hibernate", "restart"] as const) {
    const sandbox = await world.create();
    // Simulates a failed write to the database at the end of the operation.
    await world.context.stores.sandboxes.move(sandbox, move);
    const { kill, state } = on(world, sandbox);
    await kill();
    assert.equal(await state(), "stopped");
  }
  assert.deepEqual(world.worker.live, []);
});

test("a checkpoint that is deleted during its capture leaves no snapshot", async () => {
  await using world = await contextForTest();
  const { checkpoint } = on(world, await world.create());
  using held = new Held();
  world.worker.onCapture = held.here;
  const made = await checkpoint();
  await held.reached;
  await world.context.stores.checkpoints.remove(made);
  await world.context.snapshots.removeUnwanted();
  held.release();
  await world.context.operations.background.idle();
  await world.context.snapshots.removeUnwanted();
  assert.equal(world.worker.host.snapshots.size, 0);
  assert.equal(await world.context.stores.checkpoints.find(made.id), undefined);
});

test("a checkpoint that is deleted during a fork keeps its snapshot until the fork runs", async () => {
  await using world = await contextForTest();
  const { checkpoint } = on(world, await world.create());
  const made = await checkpoint();
  await world.context.operations.background.idle();
  using held = new Held();
  world.worker.onStart = held.here;
  const request = {
    organizationId: world.organizationId,
    checkpointId: made.id,
    fork: { envs: {}, metadata: {}, alias: "" },
  };
  const forking = forkCheckpoint(world.context, request, never);
  await held.reached;
  await world.context.stores.checkpoints.remove(made);
  await world.context.snapshots.removeUnwanted();
  assert.equal(world.worker.host.snapshots.size, 1);
  held.release();
  assert.equal((await forking).sandbox.state, "running");
  await world.context.snapshots.removeUnwanted();
  assert.equal(world.worker.host.snapshots.size, 0);
});
