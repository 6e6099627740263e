import type { Kysely } from "kysely";

/** Templates, their builds, and the tags that name builds. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("templates")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull().references("organizations.id"))
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("is_public", "integer", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("templates_by_name", ["organization_id", "name"])
    .execute();
  await db.schema
    .createTable("template_builds")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("template_id", "text", (column) => column.notNull())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("tags", "text", (column) => column.notNull())
    .addColumn("vcpus", "integer")
    .addColumn("memory_mib", "integer")
    .addColumn("definition", "text")
    .addColumn("checkpoint_id", "text")
    .addColumn("worker_id", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("finished_at", "bigint")
    .addColumn("error", "text")
    .addColumn("failed_step", "text")
    .addColumn("log", "text", (column) => column.notNull().defaultTo("[]"))
    .execute();
  await db.schema.createIndex("template_builds_of").on("template_builds").column("template_id").execute();
  await db.schema
    .createTable("template_tags")
    .addColumn("template_id", "text", (column) => column.notNull())
    .addColumn("tag", "text", (column) => column.notNull())
    .addColumn("build_id", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("template_tags_key", ["template_id", "tag"])
    .execute();
}
