import assert from "node:assert/strict";
import { test } from "node:test";
import { Usage } from "@opencomputer/sdk";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest, testKey } from "#testing/start-for-test.ts";

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
  });
  assert.equal(points.length, 60);
  assert.equal(
    points.reduce((sum, { memoryAllocatedGbSeconds }) => sum + memoryAllocatedGbSeconds, 0),
    150,
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
