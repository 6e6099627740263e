import { sql, type Kysely } from "kysely";

/** Events of sandboxes with their allocations. Written in what SQLite and PostgreSQL have in common. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("events")
    .addColumn("sequence", "bigint", (column) => column.primaryKey())
    .addColumn("id", "text", (column) => column.notNull().unique())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("sandbox_id", "text", (column) => column.notNull())
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("data", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("until_at", "bigint")
    .addColumn("state", "text", (column) => column.notNull())
    .addColumn("memory_mib", "integer", (column) => column.notNull())
    .addColumn("vcpus", "integer", (column) => column.notNull())
    .addColumn("disk_mib", "integer", (column) => column.notNull())
    .execute();
  // The last event of each sandbox that is not stopped.
  await sql`CREATE UNIQUE INDEX events_last ON events (sandbox_id) WHERE until_at IS NULL`.execute(db);
  await db.schema.createIndex("events_by_organization").on("events").columns(["organization_id", "sequence"]).execute();
  await db.schema.createIndex("events_by_sandbox").on("events").columns(["sandbox_id", "sequence"]).execute();
  await db.schema
    .createIndex("events_by_end")
    .on("events")
    .columns(["organization_id", "until_at", "sequence"])
    .execute();

  await db.schema
    .createTable("event_cursors")
    .addColumn("name", "text", (column) => column.primaryKey())
    .addColumn("sequence", "bigint", (column) => column.notNull())
    .execute();
  await sql`INSERT INTO event_cursors (name, sequence) VALUES ('head', 0), ('webhooks', 0)`.execute(db);

  await db.schema
    .createTable("worker_heartbeats")
    .addColumn("worker_id", "text", (column) => column.primaryKey())
    .addColumn("alive_at", "bigint", (column) => column.notNull())
    .execute();
}
