import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { SandboxSelection } from "./sandbox-store.ts";
import type { Sandbox } from "./sandbox.ts";

/** The sandbox, in any state. */
export async function getSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<Sandbox> {
  return withDeadline(context, await context.stores.sandboxes.get(organizationId, id));
}

export interface ListSandboxes extends Omit<SandboxSelection, "after"> {
  readonly organizationId: string;
  readonly states: readonly SandboxState[];
  readonly limit: number;
  /** Only sandboxes that follow this one in the list. */
  readonly after?: SandboxId | undefined;
}

/** The newest sandboxes in one of the states. @throws `not_found` when `after` names no sandbox */
export async function listSandboxes(
  context: SandboxContext,
  { organizationId, states, limit, after, ...selection }: ListSandboxes,
): Promise<Sandbox[]> {
  const store = context.stores.sandboxes;
  const last = after === undefined ? undefined : await store.get(organizationId, after);
  const sandboxes = await store.list(organizationId, states, limit, { ...selection, after: last });
  return sandboxes.map((sandbox) => withDeadline(context, sandbox));
}

/** The row rounds the deadline up; memory has the exact one. */
function withDeadline({ activity }: SandboxContext, sandbox: Sandbox): Sandbox {
  if (sandbox.state !== "running") return { ...sandbox, expiresAt: undefined };
  return { ...sandbox, expiresAt: activity.deadline(sandbox.id) ?? sandbox.expiresAt };
}
