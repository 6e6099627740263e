import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Lease } from "./lease.ts";

/** A lease of a second, and what it does. */
function startLease() {
  mock.timers.enable({ apis: ["setTimeout"] });
  const steps: string[] = [];
  const record = (step: string) => async (): Promise<void> => {
    await Promise.resolve();
    steps.push(step);
  };
  const lease = new Lease({ leaseMs: 1000, fence: record("fence"), release: record("release"), log: () => {} });
  return {
    lease,
    steps,
    async pass(milliseconds: number): Promise<void> {
      mock.timers.tick(milliseconds);
      for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
    },
    async [Symbol.asyncDispose]() {
      await lease[Symbol.asyncDispose]();
      mock.timers.reset();
    },
  };
}

test("a worker that its server asks is never fenced", async () => {
  await using world = startLease();
  for (let second = 0; second < 10; second += 1) {
    await world.pass(900);
    if (second % 2 === 0) world.lease.asked();
    else world.lease.greeted();
  }
  assert.deepEqual(world.steps, []);
});

test("a worker that nobody asks pauses its machines when the lease expires, and again every second", async () => {
  await using world = startLease();
  await world.pass(999);
  assert.deepEqual(world.steps, []);
  await world.pass(1);
  assert.deepEqual(world.steps, ["fence"]);
  await world.pass(1000);
  assert.deepEqual(world.steps, ["fence", "fence"]);
});

test("its machines run again only after the server has compared its rows with them", async () => {
  await using world = startLease();
  await world.pass(1000);
  // A server that comes back asks, greets, compares and asks again. When the comparison fails it begins anew.
  for (let round = 0; round < 3; round += 1) {
    world.lease.asked();
    world.lease.greeted();
    await world.pass(100);
  }
  world.lease.asked();
  await world.pass(100);
  assert.deepEqual(world.steps, ["fence"]);
  world.lease.asked();
  await world.pass(100);
  assert.deepEqual(world.steps, ["fence", "release"]);
  await world.pass(900);
  assert.deepEqual(world.steps, ["fence", "release", "fence"], "the lease holds anew");
});
