import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sql } from "kysely";
import type { Database } from "../database.ts";

/** The database's clock, in milliseconds since 1970. */
export const databaseNowMs = sql`(extract(epoch FROM clock_timestamp()) * 1000)::bigint`;

/** How long the sessions of a server that has lost the database may take to end, in milliseconds. */
const endSessionsMs = 10_000;

/** Ends the sessions with the name, and those whose names continue it. Resolves when none is left. */
export async function endSessions(database: Database, name: string, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + endSessionsMs;
  for (;;) {
    const { rows } = await sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE (application_name = ${name} OR starts_with(application_name, ${`${name}/`}))
        AND datname = current_database()`.execute(database);
    if (rows.length === 0) return;
    if (performance.now() >= deadline) {
      throw new SandboxError("unavailable", "the sessions of the previous server do not end: end them in PostgreSQL");
    }
    await sleep(20, undefined, { signal });
  }
}
