import type { Kysely } from "kysely";

/** Calls that changed something. The id begins with the time, so that the primary key has the order of pages. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("audit_entries")
    .addColumn("id", "text", (column) => column.notNull())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("at", "bigint", (column) => column.notNull())
    .addColumn("actor", "text", (column) => column.notNull())
    .addColumn("key_id", "text")
    .addColumn("action", "text", (column) => column.notNull())
    .addColumn("method", "text", (column) => column.notNull())
    .addColumn("path", "text", (column) => column.notNull())
    .addColumn("resource", "text")
    .addColumn("address", "text", (column) => column.notNull())
    .addColumn("request_id", "text", (column) => column.notNull())
    .addColumn("status", "integer", (column) => column.notNull())
    .addPrimaryKeyConstraint("audit_entries_key", ["organization_id", "id"])
    .execute();
  await db.schema.createIndex("audit_entries_by_age").on("audit_entries").column("at").execute();
}
