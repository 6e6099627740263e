import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";

/** The organization of the first key and of a static key. */
export const defaultOrganizationId = "org-default";

/** The organization of a key. @throws `unauthenticated` without a key, `permission_denied` for an unknown one */
export type Authenticate = (key: string | undefined) => Promise<{ readonly organizationId: string }>;

/** Accepts the static key alone when there is one, and the keys in the database otherwise. */
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

/**
 * Whether a text contains a key of this server, so that it must not be passed on to a sandbox. A generated key is known
 * by its form, a static one by comparison.
 */
export function apiKeyRecognizer(staticKey: string | undefined): (text: string) => boolean {
  const expected = staticKey === undefined ? undefined : sha256(staticKey);
  return (text) => generatedKey.test(text) || (expected !== undefined && sameHash(expected, sha256(text.trim())));
}

const generatedKey = /osb_[0-9a-f]{64}/i;

/** Makes the first key when the database has none. Returns its plain text, which is stored nowhere. */
export async function makeFirstApiKey(database: Database, now: number): Promise<string | undefined> {
  const key = `osb_${randomHex(32)}`;
  // One statement, so that only one of two processes that start together makes a key.
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
