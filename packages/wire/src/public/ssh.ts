import { z } from "zod";
import { SandboxError } from "../errors.ts";
import type { Route } from "../route.ts";

const keyRule = "publicKey is required: one line of a .pub file, of at most 16384 characters";
const nameRule = "name must have 1 to 255 characters";

const AddSshKeyBody = z
  .object({
    publicKey: z.string(keyRule).trim().min(1, keyRule).max(16_384, keyRule).meta({
      description: "The line of a `.pub` file: ssh-ed25519, ecdsa-sha2-nistp256, -nistp384, -nistp521, or ssh-rsa.",
    }),
    name: z.string().trim().min(1, nameRule).max(255, nameRule).optional().meta({
      description: "Default: the comment of the key, or its fingerprint.",
    }),
  })
  .meta({ id: "AddSshKey" });
type AddSshKeyBody = z.infer<typeof AddSshKeyBody>;

const SshKeyReply = z
  .object({
    id: z.string(),
    name: z.string(),
    type: z.string().meta({ description: "Such as `ssh-ed25519`." }),
    fingerprint: z.string().meta({ description: "As `ssh-keygen -l` prints it: `SHA256:` and 43 characters." }),
    createdAt: z.iso.datetime(),
    lastUsedAt: z.iso.datetime().optional().meta({ description: "Absent: no connection has used it." }),
  })
  .meta({ id: "SshKey" });
export type SshKeyReply = z.infer<typeof SshKeyReply>;

const SshGatewayReply = z
  .object({
    enabled: z.boolean().meta({ description: "False: the server has no OPENSANDBOX_SSH_PORT." }),
    port: z.int().optional(),
    hostKey: z.string().optional().meta({ description: "The gateway's public key, as a known_hosts file holds it." }),
    fingerprint: z.string().optional(),
  })
  .meta({ id: "SshGateway" });
export type SshGatewayReply = z.infer<typeof SshGatewayReply>;

export const getSshGateway: Route<unknown, unknown, SshGatewayReply> = {
  method: "GET",
  path: "/api/ssh",
  name: "getSshGateway",
  summary: "Get the port and the host key of the SSH gateway",
  description:
    "The gateway's user name is the id of a sandbox: `ssh -p PORT sb-1a2b3c4d@HOST`. A connection runs commands as the " +
    "user `sandbox` of a running or hibernated sandbox, transfers files, and reaches its ports.",
  access: "key",
  status: 200,
  reply: SshGatewayReply,
};

export const addSshKey: Route<AddSshKeyBody, unknown, SshKeyReply> = {
  method: "POST",
  path: "/api/ssh-keys",
  name: "addSshKey",
  summary: "Add a public key that may connect to every sandbox of the organization over SSH",
  access: "key",
  body: AddSshKeyBody,
  status: 201,
  reply: SshKeyReply,
};

export const listSshKeys: Route<unknown, unknown, SshKeyReply[]> = {
  method: "GET",
  path: "/api/ssh-keys",
  name: "listSshKeys",
  summary: "List the organization's SSH keys, oldest first",
  access: "key",
  status: 200,
  reply: z.array(SshKeyReply),
};

export const removeSshKey: Route = {
  method: "DELETE",
  path: "/api/ssh-keys/:sshKeyId",
  name: "removeSshKey",
  summary: "Remove an SSH key; its open connections end within a minute",
  access: "key",
  status: 204,
};

/** An SSH key as the server stores it. */
export interface SshKeyFacts {
  readonly id: string;
  readonly name: string;
  readonly type: string;
  readonly fingerprint: string;
  readonly createdAt: Date;
  readonly lastUsedAt?: Date | undefined;
}

export function sshKeyReplyOf({ id, name, type, fingerprint, createdAt, lastUsedAt }: SshKeyFacts): SshKeyReply {
  return {
    ...{ id, name, type, fingerprint, createdAt: createdAt.toISOString() },
    ...(lastUsedAt === undefined ? {} : { lastUsedAt: lastUsedAt.toISOString() }),
  };
}

/** @throws `not_found`: a text that is not an id names no key */
export function parseSshKeyId(text: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text)) return text;
  throw sshKeyNotFound(text);
}

export function sshKeyNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "SSH key not found", { resource: "SSH key", id });
}
