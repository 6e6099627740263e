import { z } from "zod";
import type { Route } from "../../route.ts";
import { parseScopes, type Scope } from "../scopes.ts";

const nameRule = "name must have 1 to 255 characters";
const daysRule = "expiresInDays must be a whole number from 1 to 3650";

const CreateApiKeyBody = z
  .object({
    name: z.string(nameRule).trim().min(1, nameRule).max(255, nameRule),
    scopes: z
      .array(z.string())
      .max(100)
      .optional()
      .meta({ description: "Such as `sandboxes:read`. Default: the scopes of the key that makes the call." }),
    expiresInDays: z
      .int(daysRule)
      .min(1, daysRule)
      .max(3650, daysRule)
      .optional()
      .meta({ description: "Default: the key does not expire." }),
  })
  .meta({ id: "CreateApiKey" });
type CreateApiKeyBody = z.infer<typeof CreateApiKeyBody>;

const ApiKeyFields = {
  id: z.string(),
  name: z.string(),
  prefix: z.string().meta({ description: "The beginning of the key, by which people tell keys apart." }),
  scopes: z.array(z.string()),
  createdAt: z.iso.datetime(),
  expiresAt: z.iso.datetime().optional().meta({ description: "Absent: it does not expire." }),
  lastUsedAt: z.iso.datetime().optional().meta({ description: "Exact to a minute. Absent: no call has used it." }),
  revokedAt: z.iso.datetime().optional(),
  current: z.boolean().meta({ description: "Whether this call was made with the key, or with a token of it." }),
};

const ApiKeyReply = z.object(ApiKeyFields).meta({ id: "ApiKey" });
export type ApiKeyReply = z.infer<typeof ApiKeyReply>;

const CreatedApiKeyReply = z
  .object({ ...ApiKeyFields, key: z.string().meta({ description: "The key. It cannot be read again." }) })
  .meta({ id: "CreatedApiKey" });
type CreatedApiKeyReply = z.infer<typeof CreatedApiKeyReply>;

export const listApiKeys: Route<unknown, unknown, ApiKeyReply[]> = {
  method: "GET",
  path: "/api/keys",
  name: "listApiKeys",
  summary: "List the organization's API keys, oldest first, revoked and expired ones included",
  access: "key",
  status: 200,
  reply: z.array(ApiKeyReply),
};

export const createApiKey: Route<CreateApiKeyBody, unknown, CreatedApiKeyReply> = {
  method: "POST",
  path: "/api/keys",
  name: "createApiKey",
  summary: "Create an API key of the organization",
  description:
    "A key gives no scope that it lacks itself. Tokens cannot create keys, which would outlive them; sessions of the " +
    "dashboard can. 501 where the server accepts the key of its configuration alone.",
  access: "key",
  body: CreateApiKeyBody,
  status: 201,
  reply: CreatedApiKeyReply,
};

export const revokeApiKey: Route<unknown, unknown, ApiKeyReply> = {
  method: "DELETE",
  path: "/api/keys/:keyId",
  name: "revokeApiKey",
  summary: "Revoke an API key: new calls are refused at once, and its open streams end within a minute",
  access: "key",
  status: 200,
  reply: ApiKeyReply,
};

/** An API key as the server stores it. */
interface ApiKeyFacts {
  readonly id: string;
  readonly name: string;
  readonly prefix: string;
  readonly scopes: readonly Scope[];
  readonly createdAt: Date;
  readonly expiresAt?: Date | undefined;
  readonly lastUsedAt?: Date | undefined;
  readonly revokedAt?: Date | undefined;
}

/** @param currentId the id of the key of the call */
export function apiKeyReplyOf(key: ApiKeyFacts, currentId: string | undefined): ApiKeyReply {
  const { id, name, prefix, scopes, createdAt, expiresAt, lastUsedAt, revokedAt } = key;
  return {
    ...{ id, name, prefix, scopes: [...scopes], createdAt: createdAt.toISOString(), current: id === currentId },
    ...(expiresAt === undefined ? {} : { expiresAt: expiresAt.toISOString() }),
    ...(lastUsedAt === undefined ? {} : { lastUsedAt: lastUsedAt.toISOString() }),
    ...(revokedAt === undefined ? {} : { revokedAt: revokedAt.toISOString() }),
  };
}

/** The scopes that a body asks for. @throws `invalid_argument` */
export function wantedScopes({ scopes }: CreateApiKeyBody, own: readonly Scope[]): readonly Scope[] {
  return scopes === undefined ? own : parseScopes(scopes);
}
