import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";

/** Restarts the idle timeout with another length; 0: never. A hibernated sandbox gets it at its next wake. */
export async function setIdleTimeout(
  context: SandboxContext,
  request: { readonly organizationId: string; readonly id: SandboxId; readonly idleTimeoutSeconds: number },
  signal: AbortSignal,
): Promise<void> {
  const { organizationId, id, idleTimeoutSeconds } = request;
  const {
    stores,
    activity,
    operations: { gates },
  } = context;
  await gates.open(id, signal);
  const { state } = await stores.sandboxes.get(organizationId, id);
  if (state === "hibernated") {
    await stores.sandboxes.update(id, { idleTimeoutSeconds });
    return;
  }
  using _ = await useSandbox(context, organizationId, id, signal);
  await stores.sandboxes.update(id, { idleTimeoutSeconds, expiresAt: activity.expiresAt(idleTimeoutSeconds) });
  activity.watch(id, idleTimeoutSeconds);
}
