import type { Kysely } from "kysely";

/** What the machines of sandboxes have used: the last numbers of each process, and the sums by the hour. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("measured_processes")
    .addColumn("process", "text", (column) => column.primaryKey())
    .addColumn("cpu_ms", "bigint", (column) => column.notNull())
    .addColumn("egress_bytes", "bigint", (column) => column.notNull())
    .addColumn("measured_at", "bigint", (column) => column.notNull())
    .execute();
  await db.schema.createIndex("measured_processes_by_time").on("measured_processes").column("measured_at").execute();
  await db.schema
    .createTable("measured_hours")
    .addColumn("sandbox_id", "text", (column) => column.notNull())
    .addColumn("hour", "bigint", (column) => column.notNull())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("from_at", "bigint", (column) => column.notNull())
    .addColumn("until_at", "bigint", (column) => column.notNull())
    .addColumn("cpu_ms", "bigint", (column) => column.notNull())
    .addColumn("egress_bytes", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("measured_hours_key", ["sandbox_id", "hour"])
    .execute();
  await db.schema
    .createIndex("measured_hours_by_organization")
    .on("measured_hours")
    .columns(["organization_id", "hour", "sandbox_id"])
    .execute();
  await db.schema.createIndex("measured_hours_by_hour").on("measured_hours").column("hour").execute();
}
