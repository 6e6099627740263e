import type { Kysely } from "kysely";

/** The workers of a fleet, and which of them has the files of a snapshot. A server with one worker uses neither. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("workers")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("url", "text", (column) => column.notNull())
    .addColumn("description", "text", (column) => column.notNull())
    .addColumn("cordoned", "integer", (column) => column.notNull().defaultTo(0))
    .addColumn("joined_at", "bigint", (column) => column.notNull())
    .execute();
  await db.schema
    .createTable("snapshot_copies")
    .addColumn("snapshot_id", "text", (column) => column.notNull())
    .addColumn("worker_id", "text", (column) => column.notNull())
    .addPrimaryKeyConstraint("snapshot_copies_key", ["snapshot_id", "worker_id"])
    .execute();
}
