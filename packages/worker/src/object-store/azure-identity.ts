import { InstanceMetadata } from "#azure/instance-metadata.ts";
import type { Credential } from "./azure-store.ts";

const storage = "https://storage.azure.com";

/** The managed identity of this host as a credential for Azure Storage. The SDK keeps its tokens. */
export function identityCredential(metadata = new InstanceMetadata()): Credential {
  return {
    async getToken() {
      // A token takes a second. The SDK gives an operation up by its own signal.
      const { value, expiresAt } = await metadata.token(storage, AbortSignal.timeout(60_000));
      return { token: value, expiresOnTimestamp: expiresAt };
    },
  };
}
