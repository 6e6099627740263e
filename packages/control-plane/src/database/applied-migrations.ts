import { sql, type Kysely } from "kysely";

/** The migrations that a database has seen, in their order. Empty for a new database. */
export async function appliedMigrations<Tables>(database: Kysely<Tables>): Promise<readonly string[]> {
  const { rows: tables } = await sql`
    SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kysely_migration'`.execute(database);
  if (tables.length === 0) return [];
  const { rows } = await sql<{ name: string }>`SELECT name FROM kysely_migration ORDER BY name`.execute(database);
  return rows.map(({ name }) => name);
}
