import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { sql, type Transaction } from "kysely";
import { type Database, openDatabase } from "#database/database.ts";
import {
  type DatabaseServer,
  describeDatabase,
  groupHolder,
  serverLease,
  sessionName,
} from "#database/database-server.ts";
import { databaseNowMs, endSessions } from "#database/postgres/sessions.ts";
import type { Tables } from "#database/tables.ts";
import type { Log } from "../log.ts";

/** This server among those that use one PostgreSQL database. Disposing leaves them. */
export interface ServerMembership extends AsyncDisposable {
  readonly id: string;
  /** The database for this server: its sessions carry its name and end with its membership. */
  readonly database: DatabaseServer;
  /** Aborts when the other servers may have taken over what this one holds. */
  readonly lost: AbortSignal;
}

export interface JoinServers {
  readonly log: Log;
  /** How long a membership outlives its last renewal. Default: 15 s. */
  readonly lifetimeMs?: number | undefined;
}

const defaultLifetimeMs = 15_000;

/** How often a server checks whether it may join, and whether the membership of another one has expired. */
const lookMs = 500;

/**
 * Joins the servers that use the database, after a server that uses it alone has ended. Every member watches the others:
 * when one has not renewed its membership, its sessions in the database are ended, so that none of its statements can
 * follow, and what it holds is free for the others. Servers rely on the database's clock for expiry and on their own
 * monotonic clock to leave in time.
 */
export async function joinServers(
  server: DatabaseServer,
  { log, lifetimeMs = defaultLifetimeMs }: JoinServers,
  signal: AbortSignal,
): Promise<ServerMembership> {
  await using undo = new AsyncDisposableStack();
  const database = await openDatabase({ ...server, maxConnections: 2 }, { log });
  undo.defer(() => database.destroy());
  const id = randomHex(8);
  let heldUntil = (await enter(database, { id, lifetimeMs, server, log }, signal)) + lifetimeMs;
  const lost = new AbortController();
  const stop = new AbortController();
  const working = Promise.all([renewAll(), buryAll()]);
  undo.defer(async () => {
    stop.abort();
    await working;
    await leave(database, id);
  });

  async function renewAll(): Promise<void> {
    while (!lost.signal.aborted && (await pause(lifetimeMs / 3))) {
      const begun = performance.now();
      try {
        heldUntil = (await renew(database, id, lifetimeMs)) ? begun + lifetimeMs : 0;
      } catch (error) {
        log("warn", "cannot renew the membership of this server", describeError(error));
      }
      if (performance.now() >= heldUntil) {
        lost.abort(new SandboxError("unavailable", "the other servers take over: this one has lost its membership"));
      }
    }
  }

  async function buryAll(): Promise<void> {
    while (!lost.signal.aborted && (await pause(Math.min(lookMs, lifetimeMs / 3)))) {
      try {
        for (const dead of await expired(database, id)) {
          if (await bury(database, dead, stop.signal)) {
            log("warn", "a server has ended without leaving: the others take over", { server: dead });
          }
        }
      } catch (error) {
        if (!stop.signal.aborted) log("warn", "cannot take over from a server that has ended", describeError(error));
      }
    }
  }

  /** False: this server leaves. */
  async function pause(milliseconds: number): Promise<boolean> {
    await sleep(milliseconds, undefined, { signal: stop.signal }).catch(() => {});
    return !stop.signal.aborted;
  }

  const owned = undo.move();
  return {
    id,
    database: { ...server, holder: groupHolder, member: id },
    lost: lost.signal,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

interface Enter {
  readonly id: string;
  readonly lifetimeMs: number;
  readonly server: DatabaseServer;
  readonly log: Log;
}

/** Resolves when this server is a member, with the monotonic time before it became one. */
async function enter(database: Database, { id, lifetimeMs, server, log }: Enter, signal: AbortSignal): Promise<number> {
  const place = `${hostname()}, process ${process.pid}`;
  for (let hasWaited = false; ; hasWaited = true) {
    signal.throwIfAborted();
    const since = performance.now();
    const before = await database.selectFrom("leases").selectAll().where("name", "=", serverLease).executeTakeFirst();
    const isIn = await database.transaction().execute(async (transaction) => {
      // The servers of a database hold its lease together, so that no server that wants it alone can begin.
      const { rows } = await sql`
        INSERT INTO leases (name, holder, place, generation, expires_at)
        VALUES (${serverLease}, ${groupHolder}, 'several servers', 1, ${databaseNowMs} + ${lifetimeMs}::bigint)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, place = excluded.place,
          generation = leases.generation + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END,
          expires_at = greatest(excluded.expires_at, CASE WHEN leases.holder = excluded.holder THEN leases.expires_at END)
          WHERE leases.holder = excluded.holder
            OR (leases.expires_at <= ${databaseNowMs} AND leases.holder = ${before?.holder ?? ""})
        RETURNING 1`.execute(transaction);
      if (rows.length === 0) return false;
      await sql`
        INSERT INTO servers (id, place, expires_at)
        VALUES (${id}, ${place}, ${databaseNowMs} + ${lifetimeMs}::bigint)`.execute(transaction);
      return true;
    });
    if (isIn) {
      if (before !== undefined && before.holder !== groupHolder) {
        await endSessions(database, sessionName({ holder: before.holder }), signal);
      }
      return since;
    }
    if (!hasWaited) {
      log("info", "another server uses the database alone: this one stands by until it ends", {
        database: describeDatabase(server),
        server: before?.place,
      });
    }
    await sleep(lookMs, undefined, { signal });
  }
}

/** False: the others have taken over. */
async function renew(database: Database, id: string, lifetimeMs: number): Promise<boolean> {
  const { rows } = await sql`
    WITH renewed AS (
      UPDATE servers SET expires_at = ${databaseNowMs} + ${lifetimeMs}::bigint WHERE id = ${id} AND ended = 0 RETURNING 1)
    UPDATE leases SET expires_at = greatest(expires_at, ${databaseNowMs} + ${lifetimeMs}::bigint)
    WHERE name = ${serverLease} AND holder = ${groupHolder} AND EXISTS (SELECT 1 FROM renewed)
    RETURNING 1`.execute(database);
  return rows.length > 0;
}

async function expired(database: Database, own: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    SELECT id FROM servers WHERE id <> ${own} AND (expires_at <= ${databaseNowMs} OR ended = 1)`.execute(database);
  return rows.map(({ id }) => id);
}

/**
 * Ends what is left of a server. From the first statement on it can begin no session and renew nothing, and after its
 * sessions have ended nothing of it can change a row. Only then its holds are freed. True: this server has done it.
 */
async function bury(database: Database, id: string, signal: AbortSignal): Promise<boolean> {
  const { rows } = await sql`
    UPDATE servers SET ended = 1 WHERE id = ${id} AND (expires_at <= ${databaseNowMs} OR ended = 1)
    RETURNING 1`.execute(database);
  if (rows.length === 0) return false;
  await endSessions(database, sessionName({ holder: groupHolder, member: id }), signal);
  return await database.transaction().execute((transaction) => free(transaction, id));
}

/** Frees what a server holds, and removes its row. False: another server has done it. */
async function free(transaction: Transaction<Tables>, id: string): Promise<boolean> {
  const { numDeletedRows } = await transaction.deleteFrom("servers").where("id", "=", id).executeTakeFirst();
  if (numDeletedRows === 0n) return false;
  // The next operation at such a gate first brings its sandbox in line with the worker.
  await transaction.updateTable("gates").set({ server_id: "", inherited: 1 }).where("server_id", "=", id).execute();
  await transaction.deleteFrom("snapshot_uses").where("server_id", "=", id).execute();
  await transaction.updateTable("leases").set({ holder: "", expires_at: 0 }).where("holder", "=", id).execute();
  return true;
}

/** Leaves the other servers. The last one frees the database for a server that wants it alone. */
async function leave(database: Database, id: string): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    await free(transaction, id);
    await sql`
      UPDATE leases SET expires_at = 0
      WHERE name = ${serverLease} AND holder = ${groupHolder} AND NOT EXISTS (SELECT 1 FROM servers)`.execute(
      transaction,
    );
  });
}
