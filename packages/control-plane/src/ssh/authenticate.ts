import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import ssh2, { type AuthContext } from "ssh2";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { fingerprintOf } from "./public-key.ts";
import type { SshKey, SshKeyStore } from "./ssh-key-store.ts";

/** The client of a connection: the owner of a key, and the sandbox that its user name is. */
export interface Identity {
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly keyId: string;
  /** The name of the key. */
  readonly name: string;
  readonly fingerprint: string;
}

/** A key that is accepted. Until it `isProved`, the client has only asked whether it would be. */
export interface Accepted {
  readonly identity: Identity;
  readonly isProved: boolean;
}

/**
 * Decides about an attempt. Undefined: refused, without a reason, so that a client learns nothing about sandboxes and keys
 * of others.
 */
export async function authenticate(
  context: AuthContext,
  { keys, sandboxes }: { readonly keys: SshKeyStore; readonly sandboxes: SandboxContext },
): Promise<Accepted | undefined> {
  if (context.method !== "publickey") return undefined;
  const sandboxId = sandboxOf(context.username);
  if (sandboxId === undefined) return undefined;
  for (const key of await keys.find(fingerprintOf(context.key.data))) {
    if (!(await owns(sandboxes, key, sandboxId))) continue;
    const { organizationId, id: keyId, name, fingerprint } = key;
    const identity: Identity = { organizationId, sandboxId, keyId, name, fingerprint };
    if (context.signature === undefined || context.blob === undefined) return { identity, isProved: false };
    const parsed = ssh2.utils.parseKey(`${key.type} ${key.blob}`);
    if (parsed instanceof Error) return undefined;
    // The library returns an error, which its types do not name, for a signature that is malformed.
    const verdict: unknown = parsed.verify(context.blob, context.signature, context.hashAlgo);
    return verdict === true ? { identity, isProved: true } : undefined;
  }
  return undefined;
}

function sandboxOf(username: string): SandboxId | undefined {
  try {
    return parseSandboxId(username);
  } catch {
    return undefined;
  }
}

async function owns({ stores }: SandboxContext, { organizationId }: SshKey, id: SandboxId): Promise<boolean> {
  try {
    await stores.sandboxes.get(organizationId, id);
    return true;
  } catch (error) {
    if (isSandboxError(error, "not_found")) return false;
    throw error;
  }
}
