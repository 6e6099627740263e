import { sql, type Kysely } from "kysely";

/**
 * The copies of snapshots in the object store of a fleet and the uploads that make them, workers that are being drained,
 * and sandboxes that continue from an earlier state because their worker was lost.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("snapshot_uploads")
    .addColumn("snapshot_id", "text", (column) => column.primaryKey())
    .addColumn("worker_id", "text", (column) => column.notNull())
    .addColumn("state", "text", (column) => column.notNull())
    .addColumn("store", "text")
    .addColumn("attempts", "integer", (column) => column.notNull().defaultTo(0))
    .addColumn("next_at", "bigint", (column) => column.notNull().defaultTo(0))
    .addColumn("error", "text")
    .addColumn("stored_at", "bigint")
    .execute();
  await sql`CREATE INDEX snapshot_uploads_due ON snapshot_uploads (next_at) WHERE state <> 'stored'`.execute(db);
  await sql`
    INSERT INTO snapshot_uploads (snapshot_id, worker_id, state)
    SELECT snapshot_id, min(worker_id), 'local' FROM snapshot_copies GROUP BY snapshot_id`.execute(db);
  await sql`
    CREATE INDEX sandboxes_by_hibernation ON sandboxes (hibernation_snapshot_id)
    WHERE hibernation_snapshot_id IS NOT NULL`.execute(db);
  await sql`ALTER TABLE workers ADD COLUMN draining integer NOT NULL DEFAULT 0`.execute(db);
  await sql`ALTER TABLE sandboxes ADD COLUMN recovered_from text`.execute(db);
}
