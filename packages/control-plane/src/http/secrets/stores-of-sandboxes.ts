import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { refreshSecrets } from "#secrets/refresh-secrets.ts";
import type { ApiContext } from "../api-context.ts";
import { requireScope } from "../requests/authenticate.ts";
import type { Call } from "../serve.ts";

/**
 * The store that a create names. Undefined: none. @throws `not_found`, or `permission_denied` when the key may not read
 * secrets: a sandbox can use what is in the store
 */
export async function secretStoresOf(
  { secretRows }: ApiContext,
  { organizationId, request }: Pick<Call<unknown, unknown>, "organizationId" | "request">,
  name = "",
): Promise<readonly string[] | undefined> {
  if (name === "") return undefined;
  requireScope(request, "secrets:read");
  return [(await secretRows.findStoreByName(organizationId, name)).id];
}

/** Deletes the store that a sandbox was created with. A store that is gone is no failure. */
export async function deleteStoreOf(api: ApiContext, organizationId: string, id: SandboxId): Promise<void> {
  const { secretStores } = await api.sandboxes.stores.sandboxes.get(organizationId, id);
  const storeId = secretStores?.at(-1);
  if (storeId === undefined) return;
  try {
    await api.secretRows.removeStore(organizationId, storeId);
  } catch (error) {
    if (!isSandboxError(error, "not_found")) throw error;
  }
  await refreshSecrets(api.sandboxes, organizationId, storeId);
}
