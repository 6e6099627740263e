import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { allScopes } from "@opensandbox/wire/public/scopes.ts";
import type { Database } from "#database/database.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { AccessTokens } from "./access-tokens.ts";
import type { Caller } from "./caller.ts";
import { ApiKeyStore, type FoundApiKey, isSameHash, sha256 } from "./api-key-store.ts";

/** The organization of the first key and of a static key. */
export const defaultOrganizationId = "org-default";

/**
 * Finds the owner of a key. @throws `unauthenticated` without a key, `permission_denied` for a key that is not accepted
 */
export type Authenticate = (key: string | undefined) => Promise<Caller>;

export interface Authenticator {
  readonly database: Database;
  /** The only key that is accepted. Absent: those in the database. */
  readonly staticKey: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** Accepted in place of keys. Absent: keys alone. */
  readonly tokens?: AccessTokens;
}

/** The last use of a key is stored at most this often, in milliseconds. */
const usedMs = 60_000;

/** Accepts the static key alone when there is one, and the keys in the database otherwise. */
export function authenticator({ database, staticKey, clock, log, tokens }: Authenticator): Authenticate {
  const find = staticKey === undefined ? storedKeys(new ApiKeyStore(database), clock, log) : oneKey(staticKey);
  return async (key) => {
    if (key === undefined || key === "") {
      throw new SandboxError("unauthenticated", "missing API key");
    }
    const caller = (await tokens?.callerOf(key)) ?? (await find(key));
    if (caller === undefined) throw new SandboxError("permission_denied", "invalid API key");
    return caller;
  };
}

/**
 * Whether a text contains a key of this server, so that it must not be passed on to a sandbox. A generated key is known
 * by its form, a static one by comparison.
 */
export function apiKeyRecognizer(staticKey: string | undefined): (text: string) => boolean {
  const expected = staticKey === undefined ? undefined : sha256(staticKey);
  return (text) => generatedKey.test(text) || (expected !== undefined && isSameHash(expected, sha256(text.trim())));
}

const generatedKey = /osb_[0-9a-f]{64}/i;

/** Makes the first key when the database has none. Returns its plain text, which is stored nowhere. */
export async function makeFirstApiKey(database: Database, now: number): Promise<string | undefined> {
  return await new ApiKeyStore(database).createFirst(defaultOrganizationId, now);
}

export async function makeDefaultOrganization(database: Database, now: number): Promise<void> {
  await database
    .insertInto("organizations")
    .values({ id: defaultOrganizationId, name: "default", created_at: now })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

type FindCaller = (key: string) => Promise<Caller | undefined>;

function storedKeys(store: ApiKeyStore, clock: Clock, log: Log): FindCaller {
  const storedAt = new Map<string, number>();
  return async (key) => {
    const found = await store.find(key);
    if (found === undefined) return undefined;
    const now = clock.now();
    const refusal = refusalOf(found, now);
    if (refusal !== undefined) throw new SandboxError("permission_denied", refusal);
    const { id, organizationId, name, prefix, scopes } = found;
    if (now - (storedAt.get(id) ?? found.lastUsedAt?.getTime() ?? -Infinity) >= usedMs) {
      storedAt.set(id, now);
      store.setUsed(id, new Date(now)).catch((error: unknown) => {
        log("warn", "cannot store the last use of an API key", { key: id, ...describeError(error) });
      });
    }
    return { organizationId, keyId: id, actor: `${name} (${prefix})`, scopes };
  };
}

function refusalOf({ revokedAt, expiresAt, organizationRevokedAt }: FoundApiKey, now: number): string | undefined {
  if (revokedAt !== undefined) return "the API key was revoked";
  if (expiresAt !== undefined && expiresAt.getTime() <= now) return "the API key has expired";
  return organizationRevokedAt === undefined ? undefined : "the API key belongs to an organization that was revoked";
}

function oneKey(key: string): FindCaller {
  const expected = sha256(key);
  const caller: Caller = { organizationId: defaultOrganizationId, actor: "the key of the server", scopes: allScopes };
  return (given) => Promise.resolve(isSameHash(expected, sha256(given)) ? caller : undefined);
}
