import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mock, test } from "node:test";
import { Lease } from "./lease.ts";
import { LeaseFile } from "./lease-file.ts";

/** A lease of a second, and what it does. */
function startLease(leftMs = 1000) {
  mock.timers.enable({ apis: ["setTimeout"] });
  const steps: string[] = [];
  const record = (step: string) => async (): Promise<void> => {
    await Promise.resolve();
    steps.push(step);
  };
  let renewals = 0;
  const lease = new Lease({
    ...{ leaseMs: 1000, leftMs, fence: record("fence"), release: record("release"), log: () => {} },
    onRenewed: () => (renewals += 1),
  });
  return {
    lease,
    steps,
    renewals: () => renewals,
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

test("a worker has what an earlier process has left of the lease, and starts fenced when nothing is left", async () => {
  {
    await using world = startLease(300);
    await world.pass(300);
    assert.deepEqual([world.steps, world.renewals()], [["fence"], 0]);
  }
  await using world = startLease(0);
  await world.pass(0);
  assert.deepEqual(world.steps, ["fence"]);
  world.lease.greeted();
  world.lease.asked();
  assert.equal(world.renewals(), 0, "a fenced worker renews nothing");
  world.lease.asked();
  await world.pass(0);
  assert.deepEqual([world.steps, world.renewals()], [["fence", "release"], 1]);
});

test("what is left of a lease counts from its last renewal, and a host that booted since has all of it", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-lease-"));
  try {
    assert.equal(new LeaseFile(directory).leftOf(60_000), 60_000);
    new LeaseFile(directory).renew();
    const left = new LeaseFile(directory).leftOf(600_000);
    assert.ok(left <= 600_000 && left > 0, `${left}`);
    const path = join(directory, "fleet-lease");
    const { bootId, renewedMs } = JSON.parse(await readFile(path, "utf8")) as { bootId: string; renewedMs: number };
    await writeFile(path, JSON.stringify({ bootId, renewedMs: renewedMs - 700_000 }));
    assert.ok(new LeaseFile(directory).leftOf(600_000) < 0);
    await writeFile(path, JSON.stringify({ bootId: "another", renewedMs }));
    assert.equal(new LeaseFile(directory).leftOf(600_000), 600_000);
    await writeFile(path, "");
    assert.equal(new LeaseFile(directory).leftOf(600_000), 600_000);
  } finally {
    await rm(directory, { recursive: true });
  }
});
