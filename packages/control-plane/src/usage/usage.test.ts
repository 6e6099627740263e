import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { includedDiskMib, type Window } from "@opensandbox/wire/public/usage.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import * as fc from "fast-check";
import { openDatabase } from "#database/database.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { defaultOrganizationId as organizationId, makeDefaultOrganization } from "#organizations/api-keys.ts";
import { createSandbox } from "#sandboxes/create-sandbox.ts";
import { deleteSandbox } from "#sandboxes/delete-sandbox.ts";
import { hibernateSandbox } from "#sandboxes/hibernate-sandbox.ts";
import { powerCycleSandbox } from "#sandboxes/power-cycle-sandbox.ts";
import { scaleSandbox } from "#sandboxes/scale-sandbox.ts";
import { wakeSandbox } from "#sandboxes/wake-sandbox.ts";
import { onlyWorker } from "#lifecycle/placement.ts";
import { MasterKeys } from "#secrets/master-keys.ts";
import { SecretsOfSandboxes } from "#secrets/sandbox-secrets.ts";
import { SecretRows } from "#secrets/secret-rows.ts";
import { openSandboxes } from "#service/open-sandboxes.ts";
import { contextForTest } from "#testing/context-for-test.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { TestHost } from "#testing/test-host.ts";
import { TestWorker } from "#testing/test-worker.ts";
import { pointsOf } from "./report.ts";
import { UseSweep } from "./use-sweep.ts";

const operations = ["create", "hibernate", "wake", "scale", "crash", "power-cycle", "delete", "kill server"] as const;

interface Step {
  readonly operation: (typeof operations)[number];
  /** Selects the sandbox. */
  readonly which: number;
  readonly seconds: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  operation: fc.constantFrom(...operations),
  which: fc.nat(10),
  seconds: fc.integer({ min: 1, max: 5000 }),
});

test("usage adds up over any life: scaled, hibernated, crashed, lost with its server, and deleted", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), fc.nat(1000), async (steps, part) => {
      await checkUsage(steps, part / 1000);
    }),
    { numRuns: 25 },
  );
});

/** Counts every sandbox's memory whenever time passes, and compares the sums with the report. */
async function checkUsage(steps: readonly Step[], part: number): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "usage-test-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(directory, { recursive: true }));
  const database = await openDatabase(join(directory, "control-plane.db"));
  undo.defer(() => database.destroy());
  const clock = new ManualClock();
  const begin = clock.now();
  await makeDefaultOrganization(database, begin);
  const host = new TestHost();
  const alive = new Set<string>();
  let servers = 0;
  let ended = new AbortController();
  const open = async (): Promise<{ worker: TestWorker; context: SandboxContext }> => {
    ended = new AbortController();
    const worker = new TestWorker(`worker-${(servers += 1)}`, host);
    alive.add(worker.id);
    const context = await openSandboxes({
      ...{ worker, placement: onlyWorker(worker), database, clock, log: () => {} },
      settings: {
        defaults: { vcpus: 1, memoryMib: 1024, workspaceMib: includedDiskMib + 1024, idleTimeoutSeconds: 0 },
        limits: { maxSandboxes: 1000 },
        ephemeral: false,
      },
      secrets: new SecretsOfSandboxes(new SecretRows(database, new MasterKeys([])), "00".repeat(32)),
      isWorkerAlive: (id) => alive.has(id),
      shutdown: { ending: ended.signal, cutOff: ended.signal },
    });
    await context.stores.heartbeats.beat(worker.id, clock.now());
    return { worker, context };
  };
  let { worker, context } = await open();
  undo.defer(() => ended.abort(new Error("the test has ended")));

  const ids: SandboxId[] = [];
  /** MiB times milliseconds, by sandbox. */
  const expected = new Map<SandboxId, { memory: number; disk: number }>();
  const memoryOf = new Map<SandboxId, number>();
  /** What each sandbox has used. */
  const used = new Map<SandboxId, { cpu: number; egress: number }>();
  /** The numbers of machines that were last stored, by process. */
  const stored = new Map<string, MachineUse>();
  let sweep = new UseSweep(context, 60_000);
  const measure = async (): Promise<void> => {
    await sweep.run();
    for (const { use } of host.machines.values()) stored.set(use.process, use);
  };
  const pass = async (seconds: number): Promise<void> => {
    for (const id of ids) {
      const sandbox = await context.stores.sandboxes.find(id);
      const sum = expected.get(id) ?? { memory: 0, disk: 0 };
      const memoryMib = sandbox?.state === "running" ? sandbox.memoryMib : 0;
      sum.memory += memoryMib * seconds * 1000;
      if (sandbox !== undefined && sandbox.state !== "stopped") sum.disk += 1024 * seconds * 1000;
      expected.set(id, sum);
      memoryOf.set(id, memoryMib);
      const machine = host.machines.get(id);
      if (machine?.running !== true) continue;
      const [cpu, egress] = [seconds * 37, seconds * 1001];
      const { cpuMs, egressBytes } = machine.use;
      machine.use = { ...machine.use, cpuMs: cpuMs + cpu, egressBytes: egressBytes + egress };
      const before = used.get(id) ?? { cpu: 0, egress: 0 };
      used.set(id, { cpu: before.cpu + cpu, egress: before.egress + egress });
    }
    clock.advance(seconds);
    // Several operations happen between two measurements.
    if (seconds % 3 === 0) await measure();
    await context.stores.heartbeats.beat(worker.id, clock.now());
  };
  for (const { operation, which, seconds } of steps) {
    const id = ids[which % Math.max(1, ids.length)];
    const state = id && (await context.stores.sandboxes.find(id))?.state;
    const own = { organizationId, id: id as SandboxId };
    if (operation === "create") {
      const sandbox = { image: "default", envs: {}, metadata: {}, alias: "", networkEnabled: true };
      ids.push((await createSandbox(context, { organizationId, sandbox }, () => {}, ended.signal)).sandbox.id);
    } else if (operation === "hibernate" && state === "running") {
      await hibernateSandbox(context, organizationId, own.id);
    } else if (operation === "wake" && state === "hibernated") {
      await wakeSandbox(context, own);
    } else if (operation === "scale" && state === "running") {
      await scaleSandbox(context, { ...own, size: { memoryMib: 1024 + 128 * which } }, ended.signal);
    } else if (operation === "crash" && state === "running") {
      worker.crash(own.id, "it fell over");
      await eventually(
        "the crash is seen",
        async () => (await context.stores.sandboxes.find(own.id))?.state === "error",
      );
    } else if (operation === "power-cycle" && state === "error" && host.machines.has(own.id)) {
      await powerCycleSandbox(context, organizationId, own.id);
    } else if (operation === "delete" && state !== undefined && state !== "stopped") {
      await deleteSandbox(context, organizationId, own.id);
    } else if (operation === "kill server") {
      alive.delete(worker.id);
      ended.abort(new Error("killed"));
      if (own.id !== undefined && state === "running") {
        // Its machine is gone too: it counts until the server was last known to be alive. Its disk is still allocated.
        const lost = host.machine(own.id).use;
        host.machines.delete(own.id);
        // Its numbers since the last measurement went with it.
        const [known, sum] = [stored.get(lost.process), used.get(own.id) ?? { cpu: 0, egress: 0 }];
        used.set(own.id, {
          cpu: sum.cpu - lost.cpuMs + (known?.cpuMs ?? 0),
          egress: sum.egress - lost.egressBytes + (known?.egressBytes ?? 0),
        });
        clock.advance(seconds);
        for (const other of ids) {
          const sandbox = await context.stores.sandboxes.find(other);
          const sum = expected.get(other) ?? { memory: 0, disk: 0 };
          if (sandbox?.state === "running" && other !== own.id) sum.memory += sandbox.memoryMib * seconds * 1000;
          if (sandbox !== undefined && sandbox.state !== "stopped") sum.disk += 1024 * seconds * 1000;
          expected.set(other, sum);
        }
      }
      ({ worker, context } = await open());
      sweep = new UseSweep(context, 60_000);
    }
    await pass(seconds);
  }

  const end = clock.now();
  const { usage } = context.stores;
  const whole = await usage.ofOrganization(organizationId, { from: begin, to: end });
  const found = Object.fromEntries(whole.map(({ sandboxId, memory, disk }) => [sandboxId, { memory, disk }]));
  assert.deepEqual(found, Object.fromEntries(expected));

  // Windows that follow each other add up to the one that spans them.
  const middle = begin + Math.floor((end - begin) * part);
  const sumOf = async (windows: readonly Window[]): Promise<number> => {
    const uses = await Promise.all(windows.map((window) => usage.ofOrganization(organizationId, window)));
    return uses.flat().reduce((sum, { memory, disk }) => sum + memory + disk, 0);
  };
  const halves = [
    { from: begin, to: middle },
    { from: middle, to: end },
  ];
  assert.equal(await sumOf(halves), await sumOf([{ from: begin, to: end }]));

  await measure();
  const { measuredUse } = context.stores;
  const measured = await measuredUse.ofOrganization(organizationId, { from: begin, to: end });
  const positive = [...used].filter(([, { cpu }]) => cpu > 0);
  assert.deepEqual(Object.fromEntries(measured), Object.fromEntries(positive));
  const parts = await Promise.all(halves.map((half) => measuredUse.ofOrganization(organizationId, half)));
  for (const [id, { cpu, egress }] of positive) {
    const sumIn = (what: "cpu" | "egress"): number => parts.reduce((sum, part) => sum + (part.get(id)?.[what] ?? 0), 0);
    // Each half is a whole number.
    assert.ok(Math.abs(sumIn("cpu") - cpu) <= 1 && Math.abs(sumIn("egress") - egress) <= 1, `the halves of ${id}`);
  }

  for (const id of ids) {
    const window = { from: begin, to: end };
    const points = pointsOf(await usage.memoryOf(id, window), window);
    assert.equal(
      points.reduce((sum, { memory }) => sum + memory, 0),
      expected.get(id)?.memory ?? 0,
    );
  }
}

test("an event that is recorded while a report is read is counted once", async () => {
  await using world = await contextForTest();
  const { context, clock } = world;
  const { id } = await world.create();
  const from = clock.now();
  clock.advance(100);
  const window = { from, to: clock.now() };
  const report = context.stores.usage.ofOrganization(world.organizationId, window);
  const hibernation = hibernateSandbox(context, world.organizationId, id);
  const expected = [{ sandboxId: id, memory: 1024 * 100_000, vcpus: 100_000, disk: 0 }];
  assert.deepEqual(await report, expected);
  await hibernation;
  assert.deepEqual(await context.stores.usage.ofOrganization(world.organizationId, window), expected);
});

test("points cover the window without gaps, and a span counts in each point that it touches", () => {
  const minute = 60_000;
  const window = { from: 30_000, to: 30_000 + 3 * minute };
  const points = pointsOf([{ from: 45_000, to: 2 * minute + 1, memoryMib: 100 }], window);
  assert.deepEqual(points, [
    { from: 30_000, memory: 100 * 15_000, uptimeMs: 15_000, peakMib: 100 },
    { from: minute, memory: 100 * minute, uptimeMs: minute, peakMib: 100 },
    { from: 2 * minute, memory: 100, uptimeMs: 1, peakMib: 100 },
    { from: 3 * minute, memory: 0, uptimeMs: 0, peakMib: 0 },
  ]);
  assert.equal(pointsOf([], { from: 0, to: 48 * 60 * minute }).length, 48);
});
