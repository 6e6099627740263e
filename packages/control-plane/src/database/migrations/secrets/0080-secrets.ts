import type { Kysely } from "kysely";

/** Secret stores, their secrets, and the certificate authorities of sandboxes that use them. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("secret_stores")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("hosts", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("updated_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("secret_stores_by_name", ["organization_id", "name"])
    .execute();
  await db.schema
    .createTable("secrets")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("store_id", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("value", "text", (column) => column.notNull())
    .addColumn("hosts", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("updated_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("secrets_by_name", ["store_id", "name"])
    .execute();
  await db.schema
    .createTable("guest_authorities")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("certificate", "text", (column) => column.notNull())
    .addColumn("private_key", "text", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .execute();
}
