import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { allScopes, parseScopes, type Scope } from "@opensandbox/wire/public/scopes.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import type { ApiKeyRow } from "#database/tables.ts";
import { behindLock, lockOrganization } from "#database/transaction.ts";

/** A key without its text, which is stored nowhere. */
export interface ApiKey {
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  /** The beginning of the key, by which people tell keys apart. */
  readonly prefix: string;
  readonly scopes: readonly Scope[];
  readonly createdAt: Date;
  readonly expiresAt?: Date | undefined;
  /** Exact to a minute. */
  readonly lastUsedAt?: Date | undefined;
  readonly revokedAt?: Date | undefined;
}

export interface NewApiKey {
  readonly organizationId: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly expiresAt?: Date | undefined;
}

/** A key that was found by its text, with the state of its organization. */
export interface FoundApiKey extends ApiKey {
  readonly organizationRevokedAt?: Date | undefined;
}

/** The rows of API keys. */
export class ApiKeyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Makes a key and returns its text, which cannot be read again. @throws `not_found` without the organization */
  async create(wanted: NewApiKey, createdAt: Date): Promise<{ readonly key: string; readonly apiKey: ApiKey }> {
    const key = newKey();
    const { organizationId, name, scopes, expiresAt } = wanted;
    const row = {
      ...{ id: randomUUID(), organization_id: organizationId, name, key_hash: sha256(key), key_prefix: prefixOf(key) },
      ...{ created_at: createdAt.getTime(), expires_at: expiresAt?.getTime() ?? null, scopes: scopes.join(" ") },
    };
    const organization = await this.#database
      .selectFrom("organizations")
      .select("id")
      .where("id", "=", organizationId)
      .executeTakeFirst();
    if (organization === undefined) {
      const details = { resource: "organization", id: organizationId } as const;
      throw new SandboxError("not_found", `organization ${organizationId} does not exist`, details);
    }
    const made = await this.#database.insertInto("api_keys").values(row).returningAll().executeTakeFirstOrThrow();
    return { key, apiKey: fromRow(made) };
  }

  /** Makes the first key, an administrator's, when the database has none. Returns its text. */
  async createFirst(organizationId: string, now: number): Promise<string | undefined> {
    const key = newKey();
    // One statement behind a lock: of two processes that start together, only one makes a key.
    const insert = sql`
      INSERT INTO api_keys (id, organization_id, name, key_hash, key_prefix, created_at, scopes)
      SELECT ${randomUUID()}, ${organizationId}, 'first', ${sha256(key)}, ${prefixOf(key)}, ${now}, ${allScopes.join(" ")}
      WHERE NOT EXISTS (SELECT 1 FROM api_keys)`;
    const { numAffectedRows } = await behindLock(
      this.#database,
      (transaction) => lockOrganization(transaction, organizationId),
      (locked) => insert.execute(locked),
    );
    return numAffectedRows === 1n ? key : undefined;
  }

  /** The keys of one organization or of all, oldest first, including revoked and expired ones. */
  async list(organizationId?: string): Promise<readonly ApiKey[]> {
    const rows = await this.#database
      .selectFrom("api_keys")
      .selectAll()
      .$if(organizationId !== undefined, (query) => query.where("organization_id", "=", organizationId!))
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(fromRow);
  }

  /** The key with that text, revoked or not. */
  async find(key: string): Promise<FoundApiKey | undefined> {
    const hash = sha256(key);
    const row = await this.#database
      .selectFrom("api_keys")
      .innerJoin("organizations", "organizations.id", "api_keys.organization_id")
      .selectAll("api_keys")
      .select("organizations.revoked_at as organization_revoked_at")
      .where("key_hash", "=", hash)
      .executeTakeFirst();
    if (row === undefined || !isSameHash(row.key_hash, hash)) return undefined;
    return { ...fromRow(row), organizationRevokedAt: dateOf(row.organization_revoked_at) };
  }

  /** The given ids whose keys are accepted now. */
  async accepted(ids: readonly string[], now: number): Promise<ReadonlySet<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.#database
      .selectFrom("api_keys")
      .innerJoin("organizations", "organizations.id", "api_keys.organization_id")
      .select("api_keys.id")
      .where("api_keys.id", "in", ids)
      .where("api_keys.revoked_at", "is", null)
      .where("organizations.revoked_at", "is", null)
      .where((row) => row.or([row("expires_at", "is", null), row("expires_at", ">", now)]))
      .execute();
    return new Set(rows.map(({ id }) => id));
  }

  /**
   * Revokes the key with this id, or whose text begins with `word`. A key revoked earlier keeps the time of that.
   * @throws `not_found`
   */
  async revoke(word: string, now: Date): Promise<ApiKey> {
    const rows = await this.#database
      .selectFrom("api_keys")
      .selectAll()
      .where((row) => row.or([row("id", "=", word), row("key_prefix", "=", word)]))
      .execute();
    const [row, ...others] = rows;
    if (row === undefined) {
      throw new SandboxError("not_found", `API key ${word} does not exist`, { resource: "api key", id: word });
    }
    if (others.length > 0) throw new SandboxError("invalid_argument", `several keys begin with ${word}: name the id`);
    const revoked = await this.#database
      .updateTable("api_keys")
      .set({ revoked_at: row.revoked_at ?? now.getTime() })
      .where("id", "=", row.id)
      .returningAll()
      .executeTakeFirstOrThrow();
    return fromRow(revoked);
  }

  /** Revokes a key of an organization by its id, as {@link revoke} does. @throws `not_found` */
  async revokeOf(organizationId: string, id: string, now: Date): Promise<ApiKey> {
    const row = await this.#database
      .updateTable("api_keys")
      .set((row) => ({ revoked_at: row.fn.coalesce("revoked_at", row.val(now.getTime())) }))
      .where("organization_id", "=", organizationId)
      .where("id", "=", id)
      .returningAll()
      .executeTakeFirst();
    if (row !== undefined) return fromRow(row);
    throw new SandboxError("not_found", `API key ${id} does not exist`, { resource: "api key", id });
  }

  async setUsed(id: string, at: Date): Promise<void> {
    await this.#database.updateTable("api_keys").set({ last_used_at: at.getTime() }).where("id", "=", id).execute();
  }
}

function fromRow(row: ApiKeyRow): ApiKey {
  return {
    id: row.id,
    organizationId: row.organization_id,
    name: row.name,
    prefix: row.key_prefix,
    scopes: parseScopes(row.scopes.split(" ")),
    createdAt: new Date(row.created_at),
    expiresAt: dateOf(row.expires_at),
    lastUsedAt: dateOf(row.last_used_at),
    revokedAt: dateOf(row.revoked_at),
  };
}

function dateOf(milliseconds: number | null): Date | undefined {
  return milliseconds === null ? undefined : new Date(milliseconds);
}

function newKey(): string {
  return `osb_${randomHex(32)}`;
}

function prefixOf(key: string): string {
  return key.slice(0, 12);
}

/** The SHA-256 of a text, in hexadecimal. */
export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

export function isSameHash(a: string, b: string): boolean {
  return timingSafeEqual(Buffer.from(a, "hex"), Buffer.from(b, "hex"));
}
