import type { Client, SecretStore } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The store with this name or id. @throws `not_found` */
export async function findStore({ secrets }: Client, nameOrId: string, signal: AbortSignal): Promise<SecretStore> {
  const stores = await secrets.listStores(signal);
  const found = stores.find(({ name }) => name === nameOrId) ?? stores.find(({ id }) => id === nameOrId);
  if (found !== undefined) return found;
  const message = `secret store "${nameOrId}" not found: 'secret store ls' lists those of the organization`;
  throw new SandboxError("not_found", message, { resource: "secret store", id: nameOrId });
}
