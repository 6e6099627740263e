import { sql, type Kysely } from "kysely";

/**
 * Servers that use one PostgreSQL database together, and what each of them holds: gates of sandboxes, snapshots that it
 * reads, checkpoints that it makes. A row that names a server without a row is left over. Times are those of the
 * database's clock, in milliseconds.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("servers")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("place", "text", (column) => column.notNull())
    .addColumn("expires_at", "bigint", (column) => column.notNull())
    .addColumn("ended", "integer", (column) => column.notNull().defaultTo(0))
    .execute();
  await db.schema
    .createTable("gates")
    .addColumn("sandbox_id", "text", (column) => column.primaryKey())
    .addColumn("server_id", "text", (column) => column.notNull())
    .addColumn("inherited", "integer", (column) => column.notNull().defaultTo(0))
    .addColumn("awaited", "integer", (column) => column.notNull().defaultTo(0))
    .execute();
  await db.schema
    .createTable("snapshot_uses")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("snapshot_id", "text", (column) => column.notNull())
    .addColumn("server_id", "text", (column) => column.notNull())
    .execute();
  await db.schema.createIndex("snapshot_uses_by_snapshot").on("snapshot_uses").column("snapshot_id").execute();
  await sql`ALTER TABLE workers ADD COLUMN status text`.execute(db);
  await sql`ALTER TABLE workers ADD COLUMN up integer NOT NULL DEFAULT 0`.execute(db);
  await sql`ALTER TABLE workers ADD COLUMN seen_at bigint`.execute(db);
  await sql`ALTER TABLE checkpoints ADD COLUMN server_id text`.execute(db);
  await sql`CREATE INDEX sandboxes_by_expiry ON sandboxes (expires_at) WHERE state = 'running'`.execute(db);
}
