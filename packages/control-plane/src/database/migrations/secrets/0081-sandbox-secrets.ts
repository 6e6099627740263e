import { sql, type Kysely } from "kysely";

/** The secret stores that sandboxes use. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const table of ["sandboxes", "checkpoints"]) {
    await sql`ALTER TABLE ${sql.table(table)} ADD COLUMN secret_stores text`.execute(db);
    await sql`ALTER TABLE ${sql.table(table)} ADD COLUMN authority_id text`.execute(db);
  }
}
