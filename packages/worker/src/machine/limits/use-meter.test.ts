import assert from "node:assert/strict";
import { test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import type { CgroupUsage } from "#host/cgroups/cgroups.ts";
import { EndedUse } from "./ended-use.ts";
import { UseMeter } from "./use-meter.ts";

/** Counters of a host that a test sets. The process is this one, whose processor time is far below. */
class Counters {
  cpuMs = 0;
  leavingBytes = 0;
  areGone = false;
  readonly cgroup = {
    usage: async (): Promise<CgroupUsage> => {
      await Promise.resolve();
      if (this.areGone) throw new Error("the cgroup is gone");
      const unknown = { memoryBytes: undefined, anonymousBytes: undefined, tasks: undefined, oomKills: undefined };
      return { ...unknown, cpuMicroseconds: this.cpuMs * 1000 };
    },
  };
  readonly network = { traffic: () => ({ sentBytes: 0, receivedBytes: 0, leavingBytes: this.leavingBytes }) };

  start(meter: UseMeter): void {
    meter.start({ machineId: "m-1", pid: process.pid, cgroup: this.cgroup, network: this.network });
  }
}

const large = 1e9;

test("the numbers of a process only grow, also when its cgroup is made again", async () => {
  const counters = new Counters();
  const meter = new UseMeter();
  counters.start(meter);
  counters.cpuMs = large;
  counters.leavingBytes = 500;
  const [first] = await meter.read();
  assert.deepEqual(first, { process: first?.process, cpuMs: large, egressBytes: 500, ended: false });
  counters.cpuMs = 0;
  counters.leavingBytes = 400;
  assert.deepEqual(await meter.read(), [first]);
  // Another worker that adopts the process gives it the same name.
  const next = new UseMeter();
  counters.start(next);
  assert.equal((await next.read())[0]?.process, first?.process);
});

test("a process that has ended keeps its last numbers until they are stored, even when its counters are gone", async () => {
  const counters = new Counters();
  const meter = new UseMeter();
  counters.start(meter);
  counters.cpuMs = large;
  meter.beforeEnd();
  counters.cpuMs = large + 5;
  await meter.end();
  const [ended] = await meter.read();
  assert.deepEqual([ended?.cpuMs, ended?.ended], [large + 5, true]);

  counters.start(meter);
  await meter.read();
  counters.areGone = true;
  await assert.rejects(meter.read(), /the cgroup is gone/);
  const all = await meter.close();
  assert.deepEqual(
    all.map((use) => [use.cpuMs, use.ended]),
    [
      [large + 5, true],
      [large + 5, true],
    ],
  );
  meter.forget(new Set(all.map((use) => use.process)));
  assert.deepEqual(await meter.read(), []);
});

test("a machine without cgroup and network counts the processor time of its process", async () => {
  const meter = new UseMeter();
  meter.start({ machineId: "m-1", pid: process.pid, cgroup: undefined, network: undefined });
  const [use] = await meter.read();
  assert.ok(use !== undefined && use.cpuMs > 0 && use.egressBytes === 0);
  const gone = new UseMeter();
  gone.start({ machineId: "m-1", pid: 2 ** 22 + 1, cgroup: undefined, network: undefined });
  assert.deepEqual(await gone.close(), []);
});

test("ended machines are remembered up to a bound, the newest ones", () => {
  const ended = new EndedUse();
  const processes = Array.from({ length: 20_001 }, (_, number) => ({
    ...{ process: String(number), cpuMs: 1, egressBytes: 1, ended: false },
  }));
  ended.add(newSandboxId(), processes);
  assert.deepEqual([ended.list.length, ended.list[0]?.process, ended.list[0]?.ended], [20_000, "1", true]);
  ended.forget(new Set(["1", "2"]));
  assert.equal(ended.list[0]?.process, "3");
});
