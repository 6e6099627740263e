import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Log } from "../../log.ts";
import { type Database, openDatabase } from "../database.ts";
import { type DatabaseServer, describeDatabase, groupHolder, serverLease, sessionName } from "../database-server.ts";
import { databaseNowMs, endSessions } from "./sessions.ts";

/** The right to use a PostgreSQL database as its one server. Disposing gives it to the next server. */
export interface ServerLease extends AsyncDisposable {
  /** The database for this server alone: its sessions carry the server's name and end with the lease. */
  readonly database: DatabaseServer;
  /** Rises with every holder. */
  readonly generation: number;
  /** Aborts when another server may hold the lease. */
  readonly lost: AbortSignal;
}

export interface AcquireServerLease {
  readonly log: Log;
  /** How long a lease outlives its last renewal. Default: 15 s. */
  readonly lifetimeMs?: number;
}

const defaultLifetimeMs = 15_000;

/** How often a standby checks whether the lease has expired, in milliseconds. */
const lookMs = 500;

/**
 * Waits until no other server holds the database, and takes it. A server keeps queues, deadlines and connections in
 * memory, so only one at a time may serve; others stand by and take over when it ends, or when it has not renewed its
 * lease. The new holder ends the sessions of the previous one, which can begin no other, so that statements of two
 * servers never mix, whatever their clocks say.
 */
export async function acquireServerLease(
  server: DatabaseServer,
  { log, lifetimeMs = defaultLifetimeMs }: AcquireServerLease,
  signal: AbortSignal,
): Promise<ServerLease> {
  await using undo = new AsyncDisposableStack();
  const database = await openDatabase({ ...server, maxConnections: 2 }, { log });
  undo.defer(() => database.destroy());
  const holder = randomHex(8);
  const { generation, since } = await wait(database, { holder, lifetimeMs, server, log }, signal);
  let heldUntil = since + lifetimeMs;
  const lost = new AbortController();
  const stop = new AbortController();
  const renewing = renewAll();
  undo.defer(async () => {
    stop.abort();
    await renewing;
    await database
      .updateTable("leases")
      .set({ expires_at: 0 })
      .where("name", "=", serverLease)
      .where("holder", "=", holder)
      .execute();
  });

  async function renewAll(): Promise<void> {
    while (!lost.signal.aborted) {
      try {
        await sleep(lifetimeMs / 3, undefined, { signal: stop.signal });
      } catch {
        return;
      }
      const begun = performance.now();
      try {
        const { numAffectedRows } = await sql`
          UPDATE leases SET expires_at = ${databaseNowMs} + ${lifetimeMs}::bigint
          WHERE name = ${serverLease} AND holder = ${holder} AND generation = ${generation}`.execute(database);
        if (numAffectedRows === 1n) heldUntil = begun + lifetimeMs;
        else heldUntil = 0;
      } catch (error) {
        log("warn", "cannot renew the lease of the database", describeError(error));
      }
      if (performance.now() >= heldUntil) {
        lost.abort(new SandboxError("unavailable", "another server may use the database now: this one lost its lease"));
      }
    }
  }

  const owned = undo.move();
  return {
    database: { ...server, holder },
    generation,
    lost: lost.signal,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

interface Wait {
  readonly holder: string;
  readonly lifetimeMs: number;
  readonly server: DatabaseServer;
  readonly log: Log;
}

/** Resolves when this server holds the lease, with the monotonic time before it took it. */
async function wait(
  database: Database,
  { holder, lifetimeMs, server, log }: Wait,
  signal: AbortSignal,
): Promise<{ readonly generation: number; readonly since: number }> {
  const place = `${hostname()}, process ${process.pid}`;
  for (let hasWaited = false; ; hasWaited = true) {
    signal.throwIfAborted();
    const since = performance.now();
    const before = await database.selectFrom("leases").selectAll().where("name", "=", serverLease).executeTakeFirst();
    const { rows } = await sql<{ generation: number }>`
      INSERT INTO leases (name, holder, place, generation, expires_at)
      VALUES (${serverLease}, ${holder}, ${place}, 1, ${databaseNowMs} + ${lifetimeMs}::bigint)
      ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, place = excluded.place,
        generation = leases.generation + 1, expires_at = excluded.expires_at
        WHERE leases.expires_at <= ${databaseNowMs} AND leases.generation = ${before?.generation ?? 0}
      RETURNING generation`.execute(database);
    const generation = rows[0]?.generation;
    if (generation !== undefined) {
      // The servers that used the database together have all expired: none of them may come back.
      if (before?.holder === groupHolder) await freeAll(database);
      if (before !== undefined) await endSessions(database, sessionName({ holder: before.holder }), signal);
      return { generation, since };
    }
    if (!hasWaited) {
      log("info", "another server uses the database: this one stands by and takes over when it ends", {
        database: describeDatabase(server),
        server: before?.place,
      });
    }
    await sleep(lookMs, undefined, { signal });
  }
}

async function freeAll(database: Database): Promise<void> {
  for (const table of ["servers", "gates", "snapshot_uses"] as const) await database.deleteFrom(table).execute();
}
