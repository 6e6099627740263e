import type { Kysely } from "kysely";

/** The public keys that may connect to an organization's sandboxes over SSH. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("ssh_keys")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("blob", "text", (column) => column.notNull())
    .addColumn("fingerprint", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("last_used_at", "bigint")
    .addUniqueConstraint("ssh_keys_by_organization", ["organization_id", "fingerprint"])
    .execute();
  await db.schema.createIndex("ssh_keys_by_fingerprint").on("ssh_keys").column("fingerprint").execute();
}
