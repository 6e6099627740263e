import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { useSandbox } from "./use-sandbox.ts";

/** Begins the idle timeout anew with another length; 0 is never. */
export async function setIdleTimeout(
  context: SandboxContext,
  request: { readonly organizationId: string; readonly id: SandboxId; readonly idleTimeoutSeconds: number },
  signal: AbortSignal,
): Promise<void> {
  const { organizationId, id, idleTimeoutSeconds } = request;
  using _ = await useSandbox(context, organizationId, id, signal);
  await context.store.setIdleTimeout(id, idleTimeoutSeconds, context.activity.expiresAt(idleTimeoutSeconds));
  context.activity.watch(id, idleTimeoutSeconds);
}
