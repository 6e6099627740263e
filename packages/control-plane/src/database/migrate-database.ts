import type { Log } from "../log.ts";
import { appliedMigrations } from "./applied-migrations.ts";
import { openDatabase, openUnmigrated } from "./database.ts";
import { type DatabaseLocation, describeDatabase } from "./database-server.ts";
import { pendingMigrations } from "./migrate.ts";

export interface MigratedDatabase {
  /** The database, without its password. */
  readonly database: string;
  /** The migrations that this call ran or, with `dryRun`, would run. */
  readonly migrations: readonly string[];
  /** The last migration of the database afterwards. Empty: a database without tables. */
  readonly at: string;
}

/**
 * Brings a database that exists to this version, as the start of a server does.
 * @throws `unavailable` for a database that cannot be used or belongs to a newer version
 */
export async function migrateDatabase(
  location: DatabaseLocation,
  { dryRun, log }: { readonly dryRun: boolean; readonly log: Log },
): Promise<MigratedDatabase> {
  await using before = await openUnmigrated(location);
  const migrations = await pendingMigrations(before, location);
  if (!dryRun && migrations.length > 0) await (await openDatabase(location, { log })).destroy();
  const at = (await appliedMigrations(before)).at(-1) ?? "";
  return { database: describeDatabase(location), migrations, at };
}
