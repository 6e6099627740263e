import { sql, type Kysely } from "kysely";

/** What the idle timeout does to a sandbox, and the time at which it is deleted whatever it does. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE sandboxes ADD COLUMN on_timeout text`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN delete_at bigint`.execute(db);
  await sql`CREATE INDEX sandboxes_by_deletion ON sandboxes (delete_at) WHERE delete_at IS NOT NULL`.execute(db);
}
