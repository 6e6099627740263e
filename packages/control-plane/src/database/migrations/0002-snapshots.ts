import { sql, type Kysely } from "kysely";

/** Hibernation, checkpoints with their patches, images, tags. Written in what SQLite and PostgreSQL have in common. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const column of [
    "hidden integer NOT NULL DEFAULT 0",
    "ephemeral integer NOT NULL DEFAULT 0",
    "from_checkpoint_id text",
    "last_patch_sequence integer NOT NULL DEFAULT 0",
    "patch_error text",
    "hibernation_snapshot_id text",
    "hibernation_size_bytes bigint",
    "restored_from text",
    "restored_because text",
    "boots_on_use integer NOT NULL DEFAULT 0",
    "tags text NOT NULL DEFAULT '{}'",
    "tags_updated_at bigint",
    "scaling_locked integer NOT NULL DEFAULT 0",
    "autoscale text",
  ]) {
    await sql`ALTER TABLE sandboxes ADD COLUMN ${sql.raw(column)}`.execute(db);
  }

  await db.schema
    .createTable("checkpoints")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull().references("organizations.id"))
    .addColumn("sandbox_id", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("promote_to_full", "integer", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("snapshot_id", "text", (column) => column.notNull())
    .addColumn("size_bytes", "bigint", (column) => column.notNull())
    .addColumn("is_public", "integer", (column) => column.notNull())
    .addColumn("hidden", "integer", (column) => column.notNull())
    .addColumn("worker_id", "text", (column) => column.notNull())
    .addColumn("image", "text", (column) => column.notNull())
    .addColumn("vcpus", "integer", (column) => column.notNull())
    .addColumn("memory_mib", "integer", (column) => column.notNull())
    .addColumn("workspace_mib", "integer", (column) => column.notNull())
    .addColumn("network_enabled", "integer", (column) => column.notNull())
    .addColumn("envs", "text", (column) => column.notNull())
    .addColumn("metadata", "text", (column) => column.notNull())
    .addColumn("last_patch_sequence", "integer", (column) => column.notNull())
    .addColumn("patch_sequence", "integer", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("failed_at", "bigint")
    .addColumn("error", "text")
    .execute();
  // A checkpoint that failed does not keep its name.
  await sql`CREATE UNIQUE INDEX checkpoints_by_name ON checkpoints (sandbox_id, name) WHERE status <> 'failed'`.execute(
    db,
  );
  await db.schema.createIndex("checkpoints_by_snapshot").on("checkpoints").column("snapshot_id").execute();
  await db.schema
    .createIndex("checkpoints_by_age")
    .on("checkpoints")
    .columns(["organization_id", "created_at"])
    .execute();

  await db.schema
    .createTable("patches")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("checkpoint_id", "text", (column) => column.notNull())
    .addColumn("sequence", "integer", (column) => column.notNull())
    .addColumn("script", "text", (column) => column.notNull())
    .addColumn("description", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("patches_by_sequence", ["checkpoint_id", "sequence"])
    .execute();

  await db.schema
    .createTable("images")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull().references("organizations.id"))
    .addColumn("content_hash", "text", (column) => column.notNull())
    .addColumn("name", "text")
    .addColumn("checkpoint_id", "text")
    .addColumn("manifest", "text", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("worker_id", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("last_used_at", "bigint", (column) => column.notNull())
    .addColumn("error", "text")
    .addUniqueConstraint("images_by_name", ["organization_id", "name"])
    .execute();
  await db.schema.createIndex("images_by_content").on("images").columns(["organization_id", "content_hash"]).execute();

  await db.schema
    .createTable("unwanted_snapshots")
    .addColumn("snapshot_id", "text", (column) => column.primaryKey())
    .execute();
}
