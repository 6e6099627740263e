import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";

/** Until there are more, everything belongs to this one. */
export const defaultOrganizationId = "org-default";

/** Whose key it is, or the refusal. */
export type Authenticate = (key: string | undefined) => Promise<{ readonly organizationId: string }>;

/** With a static key, that key alone is good; else those of the database. */
export function authenticator(database: Database, staticKey: string | undefined): Authenticate {
  const known = staticKey === undefined ? storedKeys(database) : oneKey(staticKey);
  return async (key) => {
    if (key === undefined || key === "") {
      throw new SandboxError("unauthenticated", "missing API key");
    }
    const organizationId = await known(sha256(key));
    if (organizationId === undefined) throw new SandboxError("permission_denied", "invalid API key");
    return { organizationId };
  };
}

/** Makes the first key where there is none, and returns it: it can never be read again. */
export async function makeFirstApiKey(database: Database, now: number): Promise<string | undefined> {
  const key = `osb_${randomHex(32)}`;
  // One statement, so that of two processes that start at once only one makes a key.
  const { numAffectedRows } = await sql`
    INSERT INTO api_keys (id, organization_id, name, key_hash, key_prefix, created_at)
    SELECT ${randomUUID()}, ${defaultOrganizationId}, 'first', ${sha256(key)}, ${key.slice(0, 8)}, ${now}
    WHERE NOT EXISTS (SELECT 1 FROM api_keys)`.execute(database);
  return numAffectedRows === 1n ? key : undefined;
}

export async function makeDefaultOrganization(database: Database, now: number): Promise<void> {
  await database
    .insertInto("organizations")
    .values({ id: defaultOrganizationId, name: "default", created_at: now })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

type FindOwner = (hash: string) => Promise<string | undefined>;

function storedKeys(database: Database): FindOwner {
  return async (hash) => {
    const row = await database
      .selectFrom("api_keys")
      .select(["key_hash", "organization_id"])
      .where("key_hash", "=", hash)
      .executeTakeFirst();
    return row !== undefined && sameHash(row.key_hash, hash) ? row.organization_id : undefined;
  };
}

function oneKey(key: string): FindOwner {
  const expected = sha256(key);
  return (hash) => Promise.resolve(sameHash(expected, hash) ? defaultOrganizationId : undefined);
}

function sameHash(a: string, b: string): boolean {
  return timingSafeEqual(Buffer.from(a, "hex"), Buffer.from(b, "hex"));
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
