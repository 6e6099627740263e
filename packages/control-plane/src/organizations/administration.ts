import { allScopes, parseScopes } from "@opensandbox/wire/public/scopes.ts";
import { AuditLog } from "../audit/audit-log.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import { openDatabase } from "#database/database.ts";
import type { DatabaseLocation } from "#database/database-server.ts";
import { type ApiKey, ApiKeyStore } from "./api-key-store.ts";
import { defaultOrganizationId } from "./api-keys.ts";
import { type Organization, type OrganizationLimits, OrganizationStore } from "./organization-store.ts";

export interface CreateApiKey {
  /** Default: the organization of the first key. */
  readonly organizationId?: string | undefined;
  readonly name: string;
  /** Scopes as the command line takes them. Default: all. */
  readonly scopes?: readonly string[] | undefined;
  /** Default: the key does not expire. */
  readonly lifetimeDays?: number | undefined;
}

/** Manages organizations and keys for a user of the host, beside a running server or without one. */
export interface Administration extends AsyncDisposable {
  createOrganization(name: string, limits: OrganizationLimits): Promise<Organization>;
  listOrganizations(): Promise<readonly Organization[]>;
  /** Changes limits. Null restores the server's limit. */
  setLimits(
    id: string,
    limits: { readonly [Name in keyof OrganizationLimits]: number | null | undefined },
  ): Promise<Organization>;
  /** Refuses every key of an organization, or accepts them again. */
  setRevoked(id: string, revoked: boolean): Promise<Organization>;
  createKey(wanted: CreateApiKey): Promise<{ readonly key: string; readonly apiKey: ApiKey }>;
  listKeys(organizationId?: string): Promise<readonly ApiKey[]>;
  /** Revokes the key with this id, or whose text begins with this word. */
  revokeKey(word: string): Promise<ApiKey>;
}

export interface OpenAdministration {
  readonly clock: Clock;
  readonly log: Log;
  /** The host user that the audit log names. */
  readonly user: string;
}

/** Opens a database for administration. Every change is in the audit log of its organization. */
export async function openAdministration(
  location: DatabaseLocation,
  { clock, log, user }: OpenAdministration,
): Promise<Administration> {
  await using undo = new AsyncDisposableStack();
  const database = await openDatabase(location, { log });
  undo.defer(() => database.destroy());
  const organizations = new OrganizationStore(database);
  const keys = new ApiKeyStore(database);
  const audit = undo.use(new AuditLog(database, clock, log));
  const now = (): Date => new Date(clock.now());
  const record = (organizationId: string, action: string, resource: string): void => {
    const made = { organizationId, action, resource, actor: `osb admin by ${user}` };
    audit.add({ ...made, method: "", path: "", address: "", requestId: "", status: 200 });
  };
  const owned = undo.move();
  return {
    async createOrganization(name, limits) {
      const made = await organizations.create(name, limits, now());
      record(made.id, "createOrganization", made.id);
      return made;
    },
    listOrganizations: () => organizations.list(),
    async setLimits(id, limits) {
      const changed = await organizations.setLimits(id, limits);
      record(id, "setOrganizationLimits", id);
      return changed;
    },
    async setRevoked(id, revoked) {
      const changed = await organizations.setRevoked(id, revoked ? now() : undefined);
      record(id, revoked ? "revokeOrganization" : "acceptOrganization", id);
      return changed;
    },
    async createKey({ organizationId = defaultOrganizationId, name, scopes = allScopes, lifetimeDays }) {
      const expiresAt = lifetimeDays === undefined ? undefined : new Date(clock.now() + lifetimeDays * 86_400_000);
      const made = await keys.create({ organizationId, name, scopes: parseScopes(scopes), expiresAt }, now());
      record(organizationId, "createApiKey", made.apiKey.id);
      return made;
    },
    listKeys: (organizationId) => keys.list(organizationId),
    async revokeKey(word) {
      const revoked = await keys.revoke(word, now());
      record(revoked.organizationId, "revokeApiKey", revoked.id);
      return revoked;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
