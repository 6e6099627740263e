import assert from "node:assert/strict";
import { test } from "node:test";
import { type PartialClient, runForTest } from "../../testing/test-host.ts";

const window = { from: "2030-01-01T00:00:00.000Z", to: "2030-01-31T00:00:00.000Z" };
const used = {
  memoryGbSeconds: 3600,
  diskOverageGbSeconds: 0,
  vcpuSeconds: 7200.25,
  cpuSeconds: 61.5,
  egressBytes: 2 ** 20,
};

test("usage shows sandboxes or the values of a tag, with a total", async () => {
  const asked: unknown[] = [];
  const client: PartialClient = {
    usage: {
      async bySandbox(query) {
        asked.push(query);
        const items = [{ ...used, sandboxId: "sb-1a2b3c4d", status: "running", tags: {} }];
        return { ...window, total: used, items };
      },
      async byTag(key, query) {
        asked.push([key, query]);
        const items = [{ ...used, value: "a", sandboxCount: 2 }];
        return { ...window, total: used, items, untagged: { ...used, sandboxCount: 1 } };
      },
    },
  };
  const bySandbox = await runForTest(["usage", "--from", window.from, "--limit", "5"], { client });
  assert.match(bySandbox.stdout, /sb-1a2b3c4d +running +3600\.0 +0\.0 +7200\.3 +61\.5 +1\.0\ntotal +3600\.0/);
  const byTag = await runForTest(["usage", "--tag", "team"], { client });
  assert.match(byTag.stdout, /^TEAM +SANDBOXES .*\na +2 +3600\.0.*\n\(without\) +1 +3600\.0/);
  assert.deepEqual(asked, [{ from: window.from, limit: 5 }, ["team", {}]]);
  const mistake = await runForTest(["usage", "sb-1a2b3c4d", "--tag", "team"], { client });
  assert.match(mistake.stderr, /--tag and --limit apply to all sandboxes/);
});

test("usage of one sandbox shows its totals", async () => {
  const measured = { diskOverageGbSeconds: 20, cpuSeconds: 61.5, egressBytes: 3 * 2 ** 20 };
  const sums = { memoryGbSeconds: 150, uptimeSeconds: 120, peakMemoryMib: 2048, ...measured };
  const client: PartialClient = { usage: { ofSandbox: async () => ({ ...window, ...sums, points: [] }) } };
  const { stdout } = await runForTest(["usage", "sb-1a2b3c4d"], { client });
  assert.match(stdout, /uptime: 120 s\nmemory: 150\.0 GB-seconds\npeak memory: 2048 MiB\n/);
  assert.match(stdout, /disk beyond 20 GB: 20\.0 GB-seconds\nprocessor time: 61\.5 s\negress: 3\.0 MiB\n$/);
});
