import type { Limits } from "./limits.ts";
import type { SandboxContext } from "./sandbox-context.ts";

/** The limits that apply to an organization. */
export async function limitsOf(
  { stores, settings }: Pick<SandboxContext, "stores" | "settings">,
  organizationId: string,
): Promise<Limits> {
  return await stores.organizations.limitsOf(organizationId, settings.limits);
}
