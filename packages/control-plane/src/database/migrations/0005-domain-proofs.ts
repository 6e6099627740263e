import { sql, type Kysely } from "kysely";

/** When the DNS record of a custom domain was last found. Null: never; domains of earlier versions are looked up again. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE previews ADD COLUMN domain_proved_at bigint`.execute(db);
}
