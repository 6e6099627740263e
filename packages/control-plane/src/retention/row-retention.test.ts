import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { sql } from "kysely";
import { openDatabase } from "#database/database.ts";
import { RowRetention } from "./row-retention.ts";
import { startForTest, type TestControlPlane } from "#testing/start-for-test.ts";

const never = new AbortController().signal;
const future = new Date(Date.now() + 1000 * 24 * 3_600_000);
const image = { base: "base", steps: [{ type: "run", args: { commands: ["true"] } }] };

async function deleted(world: TestControlPlane): Promise<string> {
  const id = await world.create();
  assert.equal((await world.call("DELETE", `/api/sandboxes/${id}`)).status, 204);
  return id;
}

async function statusOf(world: TestControlPlane, id: string): Promise<number> {
  return (await world.call("GET", `/api/sandboxes/${id}`)).status;
}

test("the old row of a deleted sandbox is removed with its previews, and no other row is", async () => {
  await using world = await startForTest();
  const old = await world.create();
  await world.ask("POST", `/api/sandboxes/${old}/preview`, { port: 3000, domain: "old.example.com" });
  await world.call("DELETE", `/api/sandboxes/${old}`);
  const withCheckpoint = await world.create();
  const [made] = await world.ask("POST", `/api/sandboxes/${withCheckpoint}/checkpoints`, { name: "kept" });
  assert.equal(made, 201);
  await world.call("DELETE", `/api/sandboxes/${withCheckpoint}`);
  const [running, hibernated] = [await world.create(), await world.create()];
  await world.ask("POST", `/api/sandboxes/${hibernated}/hibernate`);

  const { rows } = world.plane;
  const longAgo = new Date(Date.now() - 3_600_000);
  assert.equal((await rows.removeOld(longAgo, never)).stoppedSandboxes, 0);
  assert.equal(await statusOf(world, old), 200);
  assert.equal((await rows.countOld(future)).stoppedSandboxes, 1);
  assert.equal((await rows.removeOld(future, never)).stoppedSandboxes, 1);

  assert.equal(await statusOf(world, old), 404);
  for (const id of [withCheckpoint, running, hibernated]) assert.equal(await statusOf(world, id), 200);
  const again = { port: 3000, domain: "old.example.com" };
  const [status] = await world.ask("POST", `/api/sandboxes/${running}/preview`, again);
  assert.equal(status, 201, "the domain of the old preview is free");
});

test("many rows are removed in several steps, and an abort leaves the rest", async () => {
  await using world = await startForTest();
  const id = await deleted(world);
  const database = await openDatabase(world.database);
  const columns = await sql<{ name: string }>`PRAGMA table_info(sandboxes)`.execute(database);
  const others = columns.rows.map(({ name }) => name).filter((name) => name !== "id" && name !== "idempotency_key");
  const list = sql.raw(others.join(", "));
  await sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
    INSERT INTO sandboxes (id, ${list}) SELECT 'sb-' || i, ${list} FROM n, sandboxes WHERE id = ${id}`.execute(
    database,
  );
  await database.destroy();

  const { rows } = world.plane;
  const abort = new AbortController();
  const removing = rows.removeOld(future, abort.signal);
  await turn();
  abort.abort(new Error("enough"));
  await assert.rejects(removing, /enough/);
  const left = (await rows.countOld(future)).stoppedSandboxes;
  assert.equal((await rows.removeOld(future, never)).stoppedSandboxes, left);
  assert.equal((await rows.countOld(future)).stoppedSandboxes, 0);
});

test("old rows of failed checkpoints and failed images are removed", async () => {
  await using world = await startForTest();
  const id = await world.create();
  world.worker.onCapture = () => {
    throw new Error("the disk is full");
  };
  await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "failed" });
  const failing = { name: "broken", image: { ...image, steps: [{ type: "run", args: { commands: ["false"] } }] } };
  await world.ask("POST", "/api/snapshots", failing);
  const { rows } = world.plane;
  // The reply to the checkpoint comes before its capture.
  while ((await rows.countOld(future)).failedCheckpoints === 0) await turn();
  const removed = await rows.removeOld(future, never);
  assert.deepEqual(removed, { stoppedSandboxes: 0, failedCheckpoints: 1, failedImages: 1, events: 1, deliveries: 0 });
  assert.deepEqual((await world.ask("GET", `/api/sandboxes/${id}/checkpoints`))[1], []);
});

test("an unnamed image is removed with its snapshot, unless it was used since it was selected", async () => {
  let built = 0;
  await using world = await startForTest({ onImageBuilt: () => (built += 1) });
  await world.ask("POST", "/api/sandboxes", { image });
  assert.equal(built, 1, "the collector learns of it");
  const { rows } = world.plane;
  const [before] = await rows.unnamedImages();
  assert.ok(before !== undefined);
  while (Date.now() === before.lastUsedAt.getTime()) await turn();
  await world.ask("POST", "/api/sandboxes", { image });
  assert.equal(await rows.removeUnnamedImage(before), false);

  const [after] = await rows.unnamedImages();
  assert.ok(after !== undefined && after.lastUsedAt > before.lastUsedAt);
  assert.ok(world.worker.host.snapshots.has(after.snapshotId));
  assert.equal(await rows.removeUnnamedImage(after), true);
  await world.plane.removeUnwantedSnapshots();
  assert.ok(!world.worker.host.snapshots.has(after.snapshotId));
  assert.deepEqual(await rows.unnamedImages(), []);
});

test("an image with a name, or with a snapshot that another image has, is not removed as unnamed", async () => {
  await using world = await startForTest();
  const [status] = await world.ask("POST", "/api/snapshots", { name: "tools", image });
  assert.equal(status, 201);
  assert.deepEqual(await world.plane.rows.unnamedImages(), []);
});

test("creates from an image succeed while it is removed again and again", async () => {
  await using world = await startForTest({ limits: { maxSandboxes: 1000 } });
  const { rows } = world.plane;
  const done = new AbortController();
  let removed = 0;
  const removing = (async () => {
    while (!done.signal.aborted) {
      for (const image of await rows.unnamedImages()) if (await rows.removeUnnamedImage(image)) removed += 1;
      await world.plane.removeUnwantedSnapshots();
      await turn();
    }
  })();
  const statuses: number[] = [];
  for (let round = 0; round < 8; round += 1) statuses.push((await world.ask("POST", "/api/sandboxes", { image }))[0]);
  done.abort();
  await removing;
  assert.deepEqual(new Set(statuses), new Set([201]));
  assert.ok(removed > 0);
});

test("events and ended deliveries are removed by age and by number, except the last event of a sandbox", async () => {
  const options = { webhooks: { resolve: async () => [] } };
  await using world = await startForTest(options);
  const [, { id: webhook }] = await world.ask("POST", "/api/webhooks", { url: "https://receiver.example/" });
  const [kept] = [await world.create(), await deleted(world)];
  const database = await openDatabase(world.database);
  await using _ = { [Symbol.asyncDispose]: () => database.destroy() };
  const left = async () => {
    const events = await database.selectFrom("events").selectAll().orderBy("sequence").execute();
    const deliveries = await database.selectFrom("webhook_deliveries").selectAll().execute();
    return [events.map(({ type, sandbox_id: id }) => [type, id === kept]), deliveries.length];
  };
  const all = async () => (await world.ask("GET", `/api/webhooks/${webhook}/deliveries`))[1].data.length;
  while ((await all()) < 5) await turn();
  await database
    .updateTable("webhook_deliveries")
    .set({ status: "failed" })
    .where("event_type", "=", "sandbox.ready")
    .execute();

  const { rows } = world.plane;
  const never90 = new Date(Date.now() + 80 * 24 * 3_600_000);
  assert.equal((await rows.removeOld(never90, never)).events, 0, "usage reports may still need them");
  assert.deepEqual((await left())[1], 3, "pending deliveries stay");

  const old = await new RowRetention(database, { maxEvents: 4 }).removeOld(new Date(0), never);
  assert.equal(old.events, 1);
  const { events } = await rows.removeOld(future, never);
  assert.equal(events, 3);
  assert.deepEqual((await left())[0], [["sandbox.ready", true]]);
});
