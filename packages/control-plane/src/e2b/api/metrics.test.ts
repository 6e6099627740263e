import assert from "node:assert/strict";
import { test } from "node:test";
import { measurementOf } from "./metrics.ts";

const textOf = (busy: number, idle: number): string => `cpu  ${busy} 0 0 ${idle} 0 0 0 0 9 9
cpu0 1 0 0 1 0 0 0 0 0 0
cpu1 1 0 0 1 0 0 0 0 0 0
intr 5
MemTotal:        1000 kB
MemFree:          100 kB
MemAvailable:     600 kB
Cached:           300 kB
SwapCached:        77 kB
/dev/vda 20971520 5242880 15728640 25% /
`;

test("a measurement reports the load since the previous one", () => {
  const now = new Date("2026-01-01T00:00:00.500Z");
  const first = measurementOf(textOf(100, 100), undefined, now);
  assert.deepEqual(first.measured, {
    timestamp: "2026-01-01T00:00:00.500Z",
    timestampUnix: 1_767_225_600,
    cpuCount: 2,
    cpuUsedPct: 50,
    memTotal: 1_024_000,
    memUsed: 409_600,
    memCache: 307_200,
    diskUsed: 5_242_880,
    diskTotal: 20_971_520,
  });
  assert.equal(measurementOf(textOf(130, 170), first.counters, now).measured.cpuUsedPct, 30);
});
