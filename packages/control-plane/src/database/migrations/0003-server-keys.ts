import type { Kysely } from "kysely";

/** Keys of the server's own, such as the one that it signs URLs with. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("server_keys")
    .addColumn("name", "text", (column) => column.primaryKey())
    .addColumn("key", "text", (column) => column.notNull())
    .execute();
}
