import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { PostgresForTest, withoutPostgres } from "#testing/postgres-for-test.ts";
import { openDatabase } from "../database.ts";
import { acquireServerLease, type ServerLease } from "./server-lease.ts";

const never = new AbortController().signal;

suite("the lease of a PostgreSQL database", { skip: withoutPostgres }, () => {
  const stack = new AsyncDisposableStack();
  let postgres: PostgresForTest;
  const logged: string[] = [];
  const log = (_level: string, message: string): void => void logged.push(message);

  before(async () => {
    postgres = stack.use(await PostgresForTest.start());
  });
  after(() => stack.disposeAsync());

  test("of servers that start at once one serves, and another takes over when it ends", async () => {
    const server = await postgres.createDatabase();
    const held: ServerLease[] = [];
    const all = Array.from({ length: 3 }, async () => {
      const lease = await acquireServerLease(server, { log }, never);
      held.push(lease);
      return lease;
    });
    for (let count = 1; count <= 3; count += 1) {
      await within(
        "a server holds the lease",
        waitFor(() => held.length === count),
      );
      await sleep(700);
      assert.equal(held.length, count, "one at a time");
      assert.equal(held[count - 1]!.generation, count);
      await held[count - 1]![Symbol.asyncDispose]();
    }
    await Promise.all(all);
    assert.ok(logged.some((message) => message.startsWith("another server uses the database")));
  });

  test("a server that cannot renew its lease loses it, and its sessions and new statements end", async () => {
    const server = await postgres.createDatabase();
    await using first = await acquireServerLease(server, { log, lifetimeMs: 900 }, never);
    await using stale = await openDatabase(first.database);
    const running = sql`SELECT pg_sleep(20)`.execute(stale).then(
      () => "finished",
      (error: { code: string }) => error.code,
    );
    await sleep(100);
    // As if the process had stalled: the lease is not renewed, and expires.
    await postgres.execute("UPDATE leases SET expires_at = 0, generation = generation + 100", server);
    await using second = await acquireServerLease(server, { log }, never);
    assert.equal(second.generation, 102);
    assert.equal(await within("the session of the first server ends", running), "unavailable");
    await within(
      "the first server notices",
      waitFor(() => first.lost.aborted),
    );
    await assert.rejects(sql`SELECT 1`.execute(stale), { code: "unavailable", message: /belongs to another server/ });
    await using fresh = await openDatabase(second.database);
    await sql`SELECT 1`.execute(fresh);
  });

  test("a lease outlives a short restart of PostgreSQL", async () => {
    const own = await PostgresForTest.start();
    try {
      const server = await own.createDatabase();
      await using lease = await acquireServerLease(server, { log, lifetimeMs: 6000 }, never);
      await own.restart();
      await sleep(3000);
      assert.equal(lease.lost.aborted, false);
      await using database = await openDatabase(lease.database);
      await sql`SELECT 1`.execute(database);
    } finally {
      await own[Symbol.asyncDispose]();
    }
  });

  test("a standby stops waiting when it shuts down", async () => {
    const server = await postgres.createDatabase();
    await using _ = await acquireServerLease(server, { log }, never);
    await assert.rejects(acquireServerLease(server, { log }, AbortSignal.timeout(200)), /abort|timeout/i);
  });
});

async function waitFor(probe: () => boolean): Promise<void> {
  while (!probe()) await sleep(10);
}
