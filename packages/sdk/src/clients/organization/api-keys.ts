import {
  type ApiKeyReply,
  createApiKey,
  listApiKeys,
  revokeApiKey,
} from "@opensandbox/wire/public/organizations/api-keys.ts";
import type { HttpClient } from "#transport/http.ts";

/** A key of the API, without its text. */
export interface StoredApiKey {
  readonly id: string;
  readonly name: string;
  /** The beginning of the key, by which people tell keys apart. */
  readonly prefix: string;
  /** Such as `sandboxes:read`. */
  readonly scopes: readonly string[];
  readonly createdAt: string;
  /** Absent: it does not expire. */
  readonly expiresAt?: string;
  /** Exact to a minute. Absent: no call has used it. */
  readonly lastUsedAt?: string;
  readonly revokedAt?: string;
  /** Whether it is the key of this client. */
  readonly current: boolean;
}

export interface NewApiKey {
  readonly name: string;
  /** Default: the scopes of this client's key, which it cannot exceed. */
  readonly scopes?: readonly string[];
  /** Default: the key does not expire. */
  readonly expiresInDays?: number;
}

/** The keys of the organization. Changes require a key with the scope `admin:write`. */
export interface ApiKeysClient {
  /** The oldest first, revoked and expired ones included. */
  list(signal?: AbortSignal): Promise<readonly StoredApiKey[]>;
  /** Resolves with the key, which cannot be read again. */
  create(key: NewApiKey, signal?: AbortSignal): Promise<StoredApiKey & { readonly key: string }>;
  /** New calls with the key are refused at once, and its open streams end within a minute. */
  revoke(id: string, signal?: AbortSignal): Promise<StoredApiKey>;
}

export function apiKeysClient(http: HttpClient): ApiKeysClient {
  return {
    list: async (signal) => (await http.call(listApiKeys, {}, signal)).map(keyFrom),
    async create({ scopes, ...wanted }, signal) {
      const body = { ...wanted, ...(scopes === undefined ? {} : { scopes: [...scopes] }) };
      const made = await http.call(createApiKey, { body }, signal);
      return { ...keyFrom(made), key: made.key };
    },
    revoke: async (id, signal) => keyFrom(await http.call(revokeApiKey, { parameters: { keyId: id } }, signal)),
  };
}

function keyFrom({ id, name, prefix, scopes, createdAt, current, ...dates }: ApiKeyReply): StoredApiKey {
  const { expiresAt, lastUsedAt, revokedAt } = dates;
  return {
    ...{ id, name, prefix, scopes, createdAt, current },
    ...(expiresAt === undefined ? {} : { expiresAt }),
    ...(lastUsedAt === undefined ? {} : { lastUsedAt }),
    ...(revokedAt === undefined ? {} : { revokedAt }),
  };
}
