import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Usage } from "@opencomputer/sdk";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest, testKey } from "#testing/start-for-test.ts";
import { TestWorker } from "#testing/test-worker.ts";

test("the published client reads usage by sandbox and by tag, page by page, with filters", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock } });
  const usage = new Usage(world.url, testKey);
  const [one, big] = [await world.create(), await world.create({ memoryMB: 2048, alias: "big" })];
  const idle = await world.create();
  await world.ask("PUT", `/api/sandboxes/${one}/tags`, { team: "a", job: "x" });
  await world.ask("PUT", `/api/sandboxes/${big}/tags`, { team: "b" });
  await world.ask("POST", `/api/sandboxes/${idle}/hibernate`);
  clock.advance(100);

  const bySandbox = await usage.bySandbox();
  assert.deepEqual(
    bySandbox.items.map(({ sandboxId, memoryGbSeconds, alias, status, tags }) => [
      ...[sandboxId, memoryGbSeconds, alias, status],
      tags,
    ]),
    [
      [big, 200, "big", "running", { team: "b" }],
      [one, 100, undefined, "running", { team: "a", job: "x" }],
    ],
  );
  assert.deepEqual([bySandbox.total.memoryGbSeconds, bySandbox.groupBy, bySandbox.nextCursor], [300, "sandbox", null]);
  const first = await usage.bySandbox({ limit: 1 });
  const second = await usage.bySandbox({ limit: 1, cursor: first.nextCursor ?? "" });
  assert.deepEqual([first.items[0]?.sandboxId, second.items[0]?.sandboxId, second.nextCursor], [big, one, null]);

  const byTag = await usage.byTag("job");
  assert.deepEqual(
    byTag.items.map(({ tagValue, memoryGbSeconds, sandboxCount }) => [tagValue, memoryGbSeconds, sandboxCount]),
    [["x", 100, 1]],
  );
  assert.deepEqual([byTag.untagged.memoryGbSeconds, byTag.untagged.sandboxCount], [200, 1]);
  const filtered = await usage.bySandbox({ filter: { "tag:team": "a,c" } });
  assert.deepEqual(
    filtered.items.map(({ sandboxId }) => sandboxId),
    [one],
  );
  const without = await usage.bySandbox({ filter: { "tag:job": "", "tag:team": "b" } });
  assert.deepEqual(
    without.items.map(({ sandboxId }) => sandboxId),
    [big],
  );
});

test("the published client reads the memory of one sandbox in points that add up", async () => {
  const clock = new ManualClock();
  await using world = await startForTest({ tuning: { clock } });
  const id = await world.create();
  clock.advance(90);
  await world.ask("POST", `/api/sandboxes/${id}/scale`, { memoryMB: 2048 });
  clock.advance(30);
  await world.call("DELETE", `/api/sandboxes/${id}`);
  clock.advance(60);
  const { totals, points } = await new Usage(world.url, testKey).forSandbox(id);
  assert.deepEqual(totals, {
    memoryAllocatedGbSeconds: 150,
    memoryUsedGbSeconds: 0,
    uptimeSeconds: 120,
    memoryAllocatedPeakMb: 2048,
    memoryUsedPeakMb: 0,
    diskOverageGbSeconds: 0,
    cpuSeconds: 0,
    egressBytes: 0,
  });
  assert.equal(points.length, 60);
  assert.equal(
    points.reduce((sum, { memoryAllocatedGbSeconds }) => sum + memoryAllocatedGbSeconds, 0),
    150,
  );
});

test("processor time, egress and disk are reported beside the memory, by sandbox and in points that add up", async () => {
  const clock = new ManualClock();
  const directory = await mkdtemp(join(tmpdir(), "usage-test-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(directory, { recursive: true }));
  const options = { database: join(directory, "control-plane.db"), tuning: { clock } };
  const worker = new TestWorker();
  const first = await startForTest({ ...options, worker, atEnd: () => "leave" });
  const id = await first.create({ diskMB: 21_504 });
  await first.ask("PUT", `/api/sandboxes/${id}/tags`, { team: "a" });
  const machine = worker.host.machine(id);
  machine.use = { ...machine.use, cpuMs: 90_500, egressBytes: 123_457 };
  clock.advance(120);
  // The shutdown of a server counts its machines, and the next server begins where it ended.
  await first[Symbol.asyncDispose]();
  const world = undo.use(await startForTest({ ...options, worker: new TestWorker("worker-2", worker.host) }));
  const [, { total, items }] = await world.ask("GET", "/api/usage?groupBy=tag:team");
  for (const sum of [total, items[0]]) {
    assert.deepEqual([sum.cpuSeconds, sum.egressBytes, sum.diskOverageGbSeconds], [90.5, 123_457, 120]);
  }
  const [, { totals, points }] = await world.ask("GET", `/api/sandboxes/${id}/usage`);
  assert.deepEqual([totals.cpuSeconds, totals.egressBytes, totals.diskOverageGbSeconds], [90.5, 123_457, 120]);
  assert.equal(
    points.reduce((sum: number, { egressBytes }: { egressBytes: number }) => sum + egressBytes, 0),
    123_457,
  );
});

test("a window that is too long, reversed or not a time is refused, and so are unknown filters", async () => {
  await using world = await startForTest();
  for (const [query, message] of [
    ["/api/usage?from=2030-01-01T00:00:00Z&to=2030-06-01T00:00:00Z", /at most 90 days/],
    ["/api/usage?from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z", /from must be before to/],
    ["/api/usage?from=yesterday", /from must be a time such as/],
    ["/api/usage?groupBy=owner", /groupBy must be sandbox or tag:KEY/],
    ["/api/usage?filter[owner]=a", /a filter has the form/],
    ["/api/usage?filter[tag:a]=b&filter[tag:a]=c", /is repeated/],
  ] as const) {
    const [status, reply] = await world.ask("GET", query);
    assert.equal(status, 400, query);
    assert.match(reply.error, message);
  }
});
