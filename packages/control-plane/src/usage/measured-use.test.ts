import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import * as fc from "fast-check";
import { contextForTest } from "#testing/context-for-test.ts";
import { byHour } from "./measured-use.ts";
import { amountsOf } from "./report.ts";

const hour = 3_600_000;
const everyMs = 60_000;

function use(sandboxId: SandboxId, process: string, cpuMs: number, egressBytes: number): MachineUse {
  return { sandboxId, process, cpuMs, egressBytes, ended: false };
}

test("numbers that are repeated, late or twice in a measurement count once", async () => {
  await using world = await contextForTest();
  const { measuredUse } = world.context.stores;
  const { id } = await world.create();
  const from = world.clock.now();
  const count = async (...uses: MachineUse[]): Promise<void> => {
    world.clock.advance(60);
    await measuredUse.count(uses, world.clock.now(), everyMs);
  };
  await count(use(id, "a", 100, 1000));
  await count(use(id, "a", 100, 1000));
  await count(use(id, "a", 250, 1500), use(id, "a", 200, 1600));
  // A server that was slow stores an earlier measurement.
  await count(use(id, "a", 100, 1000));
  // The next process of the same sandbox starts at 0.
  await count(use(id, "a", 250, 1600), use(id, "b", 30, 5));
  const window = { from, to: world.clock.now() };
  const sums = await measuredUse.ofOrganization(world.organizationId, window);
  assert.deepEqual([...sums], [[id, { cpu: 280, egress: 1605 }]]);
  assert.deepEqual([...(await measuredUse.ofOrganization("another", window))], []);
});

test("use without measurements for hours is divided among them, and windows of whole hours add up", async () => {
  await using world = await contextForTest();
  const { measuredUse } = world.context.stores;
  const { id } = await world.create();
  const { clock, organizationId } = world;
  clock.advance((hour - (clock.now() % hour)) / 1000);
  const begin = clock.now();
  await measuredUse.count([use(id, "a", 0, 0)], begin, everyMs);
  clock.advance((2.5 * hour) / 1000);
  await measuredUse.count([use(id, "a", 1000, 10_000)], clock.now(), everyMs);
  const spans = await measuredUse.ofSandbox(id, { from: begin, to: begin + 3 * hour });
  assert.deepEqual(
    spans.map(({ from, to, cpu, egress }) => [(from - begin) / hour, (to - begin) / hour, cpu, egress]),
    [
      [0, 1, 400, 4000],
      [1, 2, 400, 4000],
      [2, 2.5, 200, 2000],
    ],
  );
  const second = await measuredUse.ofOrganization(organizationId, { from: begin + hour, to: begin + 2 * hour });
  assert.deepEqual([...second], [[id, { cpu: 400, egress: 4000 }]]);
  // Half an hour of an hour has half of its use.
  const half = await measuredUse.ofOrganization(organizationId, { from: begin + hour / 2, to: begin + hour });
  assert.deepEqual([...half], [[id, { cpu: 200, egress: 2000 }]]);
});

test("the use of a sandbox whose row has been removed is passed over", async () => {
  await using world = await contextForTest();
  const { measuredUse } = world.context.stores;
  await measuredUse.count([use("sb-00000000" as SandboxId, "a", 1, 1)], world.clock.now(), everyMs);
  await measuredUse.count([], world.clock.now(), everyMs);
  const window = { from: 0, to: world.clock.now() + hour };
  assert.deepEqual([...(await measuredUse.ofOrganization(world.organizationId, window))], []);
});

test("hours and points divide any use without a loss", () => {
  const time = fc.integer({ min: 0, max: 40 * hour });
  const amount = fc.integer({ min: 0, max: 2 ** 45 });
  fc.assert(
    fc.property(time, time, amount, amount, (from, to, cpu, egress) => {
      const parts = byHour({ cpu, egress }, { from, to });
      const sumOf = (numbers: readonly number[]): number => numbers.reduce((sum, each) => sum + each, 0);
      assert.equal(sumOf(parts.map((part) => part.cpu)), cpu);
      assert.equal(sumOf(parts.map((part) => part.egress)), egress);
      for (const part of parts) {
        assert.equal(Math.floor(part.from / hour), Math.floor((part.to - 1) / hour), "a part lies in one hour");
        assert.ok(part.cpu >= 0 && part.egress >= 0 && part.to > part.from);
      }
      if (to <= from) return;
      const points = amountsOf([{ from, to, amount: cpu }], { from: from - 30_000, to: to + 1 });
      assert.ok(Math.abs(sumOf(points) - cpu) <= cpu * 1e-9);
    }),
  );
});
