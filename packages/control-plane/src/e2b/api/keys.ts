import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Authenticate } from "#organizations/api-keys.ts";

/** Some clients accept only keys that begin with `e2b_`. The digits of a key of this server may follow it. */
export function ownKeyOf(key: string): string {
  return key.replace(/\be2b_(?=[0-9a-f]{64}\b)/gi, "osb_");
}

/** Authenticates by either form of a key. Clients expect 401 for a wrong one, too. @throws `unauthenticated` */
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
