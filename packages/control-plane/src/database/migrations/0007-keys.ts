import { sql, type Kysely } from "kysely";

/** Scopes, expiry, last use and revocation of keys, limits of organizations. Keys of earlier versions may do everything. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const column of [
    "scopes text NOT NULL DEFAULT 'admin:write images:write sandboxes:write secrets:write'",
    "expires_at bigint",
    "last_used_at bigint",
    "revoked_at bigint",
  ]) {
    await sql`ALTER TABLE api_keys ADD COLUMN ${sql.raw(column)}`.execute(db);
  }
  for (const column of [
    "revoked_at bigint",
    "max_sandboxes integer",
    "max_memory_mib integer",
    "max_disk_mib integer",
  ]) {
    await sql`ALTER TABLE organizations ADD COLUMN ${sql.raw(column)}`.execute(db);
  }
  await db.schema.createIndex("api_keys_by_organization").on("api_keys").column("organization_id").execute();
}
