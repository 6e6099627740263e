import { setTimeout as sleep } from "node:timers/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { type Kysely, sql, type Transaction } from "kysely";
import type { Database } from "./database.ts";
import { isPostgres } from "./postgres/postgres.ts";
import { isCollision } from "./postgres/errors.ts";
import type { Tables } from "./tables.ts";

/** Ten servers that change the same row have all had their turn by then. */
const maxAttempts = 10;

const maxPauseMs = 50;

/** A dead connection is noticed within this time. */
const staleMs = 1000;

/**
 * Runs statements as one transaction. On SQLite it is the only writer from its beginning on. On PostgreSQL others run at
 * the same time, each statement sees what was committed before it (READ COMMITTED), and a transaction that collides with
 * another one is repeated; `work` must therefore change nothing but rows.
 * @throws `unavailable` when the collisions do not end, or when the connection is lost: then it may have been committed
 */
export async function inTransaction<T>(
  database: Database,
  work: (transaction: Transaction<Tables>) => Promise<T>,
): Promise<T> {
  if (!isPostgres(database)) return await database.transaction().execute(work);
  for (let attempt = 1; ; attempt += 1) {
    const since = performance.now();
    let hasBegun = false;
    try {
      return await database.transaction().execute((transaction) => {
        hasBegun = true;
        return work(transaction);
      });
    } catch (error) {
      // An idle connection can end unnoticed; a transaction that did not begin has changed nothing. A slow failure means that
      // PostgreSQL is down, for which the pool has already waited.
      const isStale = !hasBegun && isSandboxError(error, "unavailable") && performance.now() - since < staleMs;
      const mayRepeat = isCollision(error) || isStale;
      if (!mayRepeat || attempt === maxAttempts) throw error;
      await sleep(Math.random() * maxPauseMs);
    }
  }
}

/**
 * Runs a statement that compares rows with a limit and then changes them. On PostgreSQL it runs behind a lock, so that two
 * transactions cannot exceed the limit together. On SQLite a statement is the only writer and needs none.
 */
export async function behindLock<T>(
  database: Database,
  lock: (transaction: Transaction<Tables>) => Promise<void>,
  work: (database: Kysely<Tables>) => Promise<T>,
): Promise<T> {
  if (!isPostgres(database)) return await work(database);
  return await inTransaction(database, async (transaction) => {
    await lock(transaction);
    return await work(transaction);
  });
}

/** Makes other transactions of the organization wait until this one ends, unless they only read. */
export async function lockOrganization(transaction: Transaction<Tables>, organizationId: string): Promise<void> {
  if (!isPostgres(transaction)) return;
  await sql`SELECT 1 FROM organizations WHERE id = ${organizationId} FOR NO KEY UPDATE`.execute(transaction);
}

/** Makes other transactions that lock the same name wait until this one ends. */
export async function lockName(transaction: Kysely<Tables>, name: string): Promise<void> {
  if (!isPostgres(transaction)) return;
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${name}, 0))`.execute(transaction);
}
