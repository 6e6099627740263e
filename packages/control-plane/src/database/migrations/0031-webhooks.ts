import { sql, type Kysely } from "kysely";

/** Destinations of events and what was delivered to them. Written in what SQLite and PostgreSQL have in common. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("webhooks")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("organization_id", "text", (column) => column.notNull().references("organizations.id"))
    .addColumn("name", "text")
    .addColumn("url", "text", (column) => column.notNull())
    .addColumn("event_types", "text", (column) => column.notNull())
    .addColumn("sandbox_id", "text")
    .addColumn("enabled", "integer", (column) => column.notNull())
    .addColumn("secret", "text", (column) => column.notNull())
    .addColumn("previous_secret", "text")
    .addColumn("previous_secret_until", "bigint")
    .addColumn("idempotency_key", "text")
    .addColumn("from_sequence", "bigint", (column) => column.notNull())
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("updated_at", "bigint", (column) => column.notNull())
    .addUniqueConstraint("webhooks_by_key", ["organization_id", "idempotency_key"])
    .execute();

  await db.schema
    .createTable("webhook_deliveries")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("webhook_id", "text", (column) => column.notNull())
    .addColumn("sandbox_id", "text", (column) => column.notNull())
    .addColumn("event_id", "text", (column) => column.notNull())
    .addColumn("event_type", "text", (column) => column.notNull())
    .addColumn("sequence", "bigint", (column) => column.notNull())
    .addColumn("ordered", "integer", (column) => column.notNull())
    .addColumn("body", "text", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("attempts", "integer", (column) => column.notNull())
    .addColumn("next_attempt_at", "bigint", (column) => column.notNull())
    .addColumn("retry_until", "bigint", (column) => column.notNull())
    .addColumn("claimed_until", "bigint")
    .addColumn("created_at", "bigint", (column) => column.notNull())
    .addColumn("attempted_at", "bigint")
    .addColumn("response_status", "integer")
    .addColumn("error", "text")
    .addUniqueConstraint("webhook_deliveries_by_event", ["webhook_id", "event_id"])
    .execute();
  await sql`CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE status = 'pending'`.execute(
    db,
  );
  await sql`CREATE INDEX webhook_deliveries_order ON webhook_deliveries (webhook_id, sandbox_id, sequence)
    WHERE status = 'pending'`.execute(db);
  await db.schema
    .createIndex("webhook_deliveries_by_webhook")
    .on("webhook_deliveries")
    .columns(["webhook_id", "created_at"])
    .execute();
  await db.schema.createIndex("webhook_deliveries_by_age").on("webhook_deliveries").column("created_at").execute();
}
