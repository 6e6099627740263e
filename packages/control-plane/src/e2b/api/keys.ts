import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Authenticate } from "#organizations/api-keys.ts";

/** Replaces the prefix `e2b_`, which some clients require, by this server's `osb_`. The digits are the same. */
export function ownKeyOf(key: string): string {
  return key.replace(/\be2b_(?=[0-9a-f]{64}\b)/gi, "osb_");
}

/**
 * Accepts a key with either prefix. A wrong key is 401, as E2B's clients expect, instead of 403. @throws
 * `unauthenticated`
 */
export function authenticatorOf(authenticate: Authenticate): Authenticate {
  return async (key) => {
    try {
      return await authenticate(key === undefined ? undefined : ownKeyOf(key));
    } catch (error) {
      if (!isSandboxError(error, "permission_denied")) throw error;
      throw new SandboxError("unauthenticated", error.message, { cause: error });
    }
  };
}
