import { sql, type Kysely } from "kysely";
import { isPostgres } from "./postgres/postgres.ts";

/** The migrations that a database has seen, in their order. Empty for a new database. */
export async function appliedMigrations<Tables>(database: Kysely<Tables>): Promise<readonly string[]> {
  const { rows: tables } = isPostgres(database)
    ? await sql`SELECT 1 WHERE to_regclass('kysely_migration') IS NOT NULL`.execute(database)
    : await sql`SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kysely_migration'`.execute(database);
  if (tables.length === 0) return [];
  const { rows } = await sql<{ name: string }>`SELECT name FROM kysely_migration ORDER BY name`.execute(database);
  return rows.map(({ name }) => name);
}
