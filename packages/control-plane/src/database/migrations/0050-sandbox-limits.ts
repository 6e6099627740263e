import { sql, type Kysely } from "kysely";

/** Limits of sandboxes that callers set while they run. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE sandboxes ADD COLUMN cpu_percent integer`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN max_pids integer`.execute(db);
}
