import { sql, type Kysely } from "kysely";

/** What sandboxes may reach, and how their ports are reached. Written in what SQLite and PostgreSQL have in common. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE sandboxes ADD COLUMN egress text`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN preview_token_hash text`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN forwarded_port integer`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN host_port integer`.execute(db);
  await sql`ALTER TABLE checkpoints ADD COLUMN egress text`.execute(db);

  await db.schema
    .createTable("previews")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("sandbox_id", "text", (column) => column.notNull())
    .addColumn("port", "integer", (column) => column.notNull())
    .addColumn("custom_hostname", "text", (column) => column.unique())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("previews_port", ["sandbox_id", "port"])
    .execute();
}
