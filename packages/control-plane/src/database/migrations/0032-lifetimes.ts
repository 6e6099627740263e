import type { Kysely } from "kysely";

/** Sandboxes that end at a set time, whatever they do. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("lifetimes")
    .addColumn("sandbox_id", "text", (column) => column.primaryKey())
    .addColumn("template", "text", (column) => column.notNull())
    .addColumn("ends_at", "bigint", (column) => column.notNull())
    .addColumn("at_end", "text", (column) => column.notNull())
    .addColumn("wakes_on_use", "integer", (column) => column.notNull())
    .addColumn("paused", "integer", (column) => column.notNull())
    .execute();
  await db.schema.createIndex("lifetimes_by_end").on("lifetimes").column("ends_at").execute();
}
