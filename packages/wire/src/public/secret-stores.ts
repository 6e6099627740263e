import { z } from "zod";
import { parseSecretHosts } from "../secret-hosts.ts";
import { SandboxError } from "../errors.ts";
import type { Route } from "../route.ts";

const nameRule = "name is required: 1 to 255 characters";
const name = z.string(nameRule).trim().min(1, nameRule).max(255, nameRule);

const hosts = (field: string): z.ZodType<string[]> =>
  z.array(z.string(), `${field} must be a list of host names`).max(100, `${field} must have at most 100 entries`);

const allowlist = hosts("egressAllowlist").meta({
  description:
    "Hosts that secrets of the store may be sent to, such as `api.example.com` or `*.example.com`. Empty: each secret " +
    "names its own. It does not limit what a sandbox may reach: that is its network policy.",
});

const allowedHosts = hosts("allowedHosts").meta({
  description: "Hosts that the secret may be sent to, within the store's list if that has entries. Empty: the store's.",
});

const CreateSecretStoreBody = z
  .object({ name, egressAllowlist: allowlist.optional() })
  .meta({ id: "CreateSecretStore" });
type CreateSecretStoreBody = z.infer<typeof CreateSecretStoreBody>;

const UpdateSecretStoreBody = z
  .object({ name: name.optional(), egressAllowlist: allowlist.optional() })
  .meta({ id: "UpdateSecretStore" });
type UpdateSecretStoreBody = z.infer<typeof UpdateSecretStoreBody>;

const SecretStoreReply = z
  .object({
    id: z.string(),
    orgId: z.string(),
    name: z.string(),
    egressAllowlist: z.array(z.string()),
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
  })
  .meta({ id: "SecretStore" });
export type SecretStoreReply = z.infer<typeof SecretStoreReply>;

export const createSecretStore: Route<CreateSecretStoreBody, unknown, SecretStoreReply> = {
  method: "POST",
  path: "/api/secret-stores",
  name: "createSecretStore",
  summary: "Create a secret store",
  description:
    "A sandbox that is created with `secretStore` sees each secret as a variable with a sealed text, `osb_sealed_` and " +
    "32 hexadecimal digits. Outside the sandbox the sealed text is replaced by the value in HTTPS requests to the hosts " +
    "that the secret allows. The value itself never enters the sandbox.",
  access: "key",
  body: CreateSecretStoreBody,
  status: 201,
  reply: SecretStoreReply,
};

export const listSecretStores: Route<unknown, unknown, SecretStoreReply[]> = {
  method: "GET",
  path: "/api/secret-stores",
  name: "listSecretStores",
  summary: "List secret stores, oldest first",
  access: "key",
  status: 200,
  reply: z.array(SecretStoreReply),
};

export const getSecretStore: Route<unknown, unknown, SecretStoreReply> = {
  method: "GET",
  path: "/api/secret-stores/:storeId",
  name: "getSecretStore",
  summary: "Get a secret store",
  access: "key",
  status: 200,
  reply: SecretStoreReply,
};

export const updateSecretStore: Route<UpdateSecretStoreBody, unknown, SecretStoreReply> = {
  method: "PUT",
  path: "/api/secret-stores/:storeId",
  name: "updateSecretStore",
  summary: "Change a secret store's name or hosts; absent fields stay",
  access: "key",
  body: UpdateSecretStoreBody,
  status: 200,
  reply: SecretStoreReply,
};

export const deleteSecretStore: Route = {
  method: "DELETE",
  path: "/api/secret-stores/:storeId",
  name: "deleteSecretStore",
  summary: "Delete a secret store with its secrets; running sandboxes lose them at once",
  access: "key",
  status: 204,
};

const valueRule = "value is required: 1 to 65536 characters without line breaks and NUL";

const SetSecretBody = z
  .object({
    // A line break cannot be sent in a header, and a NUL cannot be part of an environment variable.
    value: z
      .string(valueRule)
      .regex(/^[^\0\r\n]{1,65536}$/, valueRule)
      .meta({ description: "Encrypted where it is stored, and never returned." }),
    allowedHosts: allowedHosts.optional(),
  })
  .meta({ id: "SetSecret" });
type SetSecretBody = z.infer<typeof SetSecretBody>;

const SecretSetReply = z
  .object({
    name: z.string(),
    status: z.literal("set"),
    refreshed: z.int().optional().meta({ description: "Running sandboxes that have the new value." }),
    refreshErrors: z.array(z.string()).optional().meta({ description: "Running sandboxes that do not, and why." }),
  })
  .meta({ id: "SecretSet" });
type SecretSetReply = z.infer<typeof SecretSetReply>;

export const setSecret: Route<SetSecretBody, unknown, SecretSetReply> = {
  method: "PUT",
  path: "/api/secret-stores/:storeId/secrets/:secretName",
  name: "setSecret",
  summary: "Set a secret; its name is that of the variable in sandboxes",
  description:
    "Running sandboxes of the store use a new value at once, under the same sealed text. They see the variable of a new " +
    "secret from their next start. Without `allowedHosts`, an existing secret keeps its hosts.",
  access: "key",
  body: SetSecretBody,
  status: 200,
  reply: SecretSetReply,
};

const SecretReply = z
  .object({
    id: z.string(),
    storeId: z.string(),
    name: z.string(),
    allowedHosts: z.array(z.string()),
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
  })
  .meta({ id: "Secret" });
export type SecretReply = z.infer<typeof SecretReply>;

export const listSecrets: Route<unknown, unknown, SecretReply[]> = {
  method: "GET",
  path: "/api/secret-stores/:storeId/secrets",
  name: "listSecrets",
  summary: "List the secrets of a store, without their values",
  access: "key",
  status: 200,
  reply: z.array(SecretReply),
};

export const deleteSecret: Route = {
  method: "DELETE",
  path: "/api/secret-stores/:storeId/secrets/:secretName",
  name: "deleteSecret",
  summary: "Delete a secret; running sandboxes lose it at once",
  access: "key",
  status: 204,
};

/** The store that a create asks for. @throws `invalid_argument` for entries that are not host names */
export function newSecretStoreFrom({ name: title, egressAllowlist = [] }: CreateSecretStoreBody) {
  return { name: title, hosts: parseSecretHosts("egressAllowlist", egressAllowlist) };
}

/** The changes that an update asks for. @throws `invalid_argument` for entries that are not host names */
export function secretStoreChangesFrom({ name: title, egressAllowlist }: UpdateSecretStoreBody) {
  return {
    ...(title === undefined ? {} : { name: title }),
    ...(egressAllowlist === undefined ? {} : { hosts: parseSecretHosts("egressAllowlist", egressAllowlist) }),
  };
}

/** The secret that a call sets. @throws `invalid_argument` for a wrong name or wrong hosts */
export function secretFrom(secretName: string, { value, allowedHosts: wanted }: SetSecretBody) {
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,254}$/.test(secretName)) {
    const rule = "the name of a secret must be that of an environment variable: letters, digits and _";
    throw new SandboxError("invalid_argument", rule);
  }
  return {
    name: secretName,
    value,
    ...(wanted === undefined ? {} : { hosts: parseSecretHosts("allowedHosts", wanted) }),
  };
}

/** The id of a store from outside. @throws `invalid_argument` */
export function parseStoreId(text: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) return text.toLowerCase();
  throw new SandboxError("invalid_argument", "invalid store ID");
}

export function secretStoreReplyOf(store: {
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  readonly hosts: readonly string[];
  readonly createdAt: Date;
  readonly updatedAt: Date;
}): SecretStoreReply {
  return {
    id: store.id,
    orgId: store.organizationId,
    name: store.name,
    egressAllowlist: [...store.hosts],
    createdAt: store.createdAt.toISOString(),
    updatedAt: store.updatedAt.toISOString(),
  };
}

export function secretReplyOf(secret: {
  readonly id: string;
  readonly storeId: string;
  readonly name: string;
  readonly hosts: readonly string[];
  readonly createdAt: Date;
  readonly updatedAt: Date;
}): SecretReply {
  return {
    id: secret.id,
    storeId: secret.storeId,
    name: secret.name,
    allowedHosts: [...secret.hosts],
    createdAt: secret.createdAt.toISOString(),
    updatedAt: secret.updatedAt.toISOString(),
  };
}
