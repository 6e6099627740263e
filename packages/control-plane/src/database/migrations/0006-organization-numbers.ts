import { createHash } from "node:crypto";
import { sql, type Kysely } from "kysely";

/**
 * Numbers of organizations, which hosts make groups of. Private files of earlier versions have a group that is a hash of
 * the organization's id, so organizations of that time keep this number; of two with the same hash, the older one.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE organizations ADD COLUMN number integer`.execute(db);
  const { rows } = await sql<{ id: string }>`SELECT id FROM organizations ORDER BY created_at, id`.execute(db);
  const used = new Set<number>();
  for (const { id } of rows) {
    const number = createHash("sha256").update(id).digest().readUIntBE(0, 3);
    if (used.has(number)) continue;
    used.add(number);
    await sql`UPDATE organizations SET number = ${number} WHERE id = ${id}`.execute(db);
  }
  await db.schema.createIndex("organizations_by_number").on("organizations").column("number").unique().execute();
}
