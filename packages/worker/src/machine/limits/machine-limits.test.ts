import assert from "node:assert/strict";
import { test } from "node:test";
import type { CgroupLimits } from "#host/cgroups/cgroups.ts";
import type { LiveMachine } from "../live-machine.ts";
import { limitProcessorsOf } from "./machine-limits.ts";

test("the host bounds a machine's processor time by its sandbox, however many vCPUs the guest brings online", async () => {
  const set: CgroupLimits[] = [];
  const cgroup = { setLimits: async (limits: CgroupLimits) => void set.push(limits) };
  const live = { cgroup, shape: { vcpus: 8 } } as unknown as LiveMachine;
  await limitProcessorsOf(live, { vcpus: 1 });
  await limitProcessorsOf(live, { vcpus: 1, cpuPercent: 400 });
  // Half a processor is for the devices.
  assert.deepEqual(set, [
    { cpuWeight: 100, ioWeight: 100, cpuPercent: 150 },
    { cpuWeight: 100, ioWeight: 100, cpuPercent: 450 },
  ]);
});
