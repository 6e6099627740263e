import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Sandbox } from "./sandbox.ts";

// The published clients expect at most this many.
const listLimit = 100;

/** The sandbox, in any state. */
export async function getSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<Sandbox> {
  return withDeadline(context, await context.stores.sandboxes.get(organizationId, id));
}

/** The newest 100 sandboxes in one of the states. */
export async function listSandboxes(
  context: SandboxContext,
  organizationId: string,
  states: readonly SandboxState[],
): Promise<Sandbox[]> {
  const sandboxes = await context.stores.sandboxes.list(organizationId, states, listLimit);
  return sandboxes.map((sandbox) => withDeadline(context, sandbox));
}

/** The row rounds the deadline up; memory has the exact one. */
function withDeadline({ activity }: SandboxContext, sandbox: Sandbox): Sandbox {
  if (sandbox.state !== "running") return { ...sandbox, expiresAt: undefined };
  return { ...sandbox, expiresAt: activity.deadline(sandbox.id) ?? sandbox.expiresAt };
}
