import { sql, type Kysely } from "kysely";

/** What a worker has is compared with its rows every minute, whatever the number of sandboxes. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`CREATE INDEX sandboxes_by_worker ON sandboxes (worker_id) WHERE state <> 'stopped'`.execute(db);
}
