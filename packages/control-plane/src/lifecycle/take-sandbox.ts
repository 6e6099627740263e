import type { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { elsewhere } from "./elsewhere.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { passingStates, wrongState, type SandboxState } from "./sandbox-lifecycle.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** An operation's sandbox, the states that it accepts and its refusal of any other. */
export interface Take {
  readonly organizationId: string;
  readonly id: SandboxId;
  readonly refusal: SandboxError;
  /** Default: running. */
  readonly states?: readonly SandboxState[];
}

/**
 * Runs an operation on a sandbox of this control plane behind its gate. When the sandbox is in the wrong state at the request, the
 * operation is refused with `refusal`. When the state changes while the operation is queued, the refusal is `wrong_state`
 * with the present state.
 */
export async function takeSandbox<T>(
  context: SandboxContext,
  { organizationId, id, refusal, states = ["running"] }: Take,
  operation: (sandbox: Sandbox) => Promise<T>,
): Promise<T> {
  const asked = await context.stores.sandboxes.get(organizationId, id);
  if (!states.includes(asked.state) && !passingStates.includes(asked.state)) throw refusal;
  return context.operations.gates.run(id, async () => {
    const sandbox = await context.stores.sandboxes.get(organizationId, id);
    if (!states.includes(sandbox.state)) {
      throw wrongState(sandbox.state, states, `${refusal.message}: it is ${sandbox.state}`);
    }
    if (!isFree(context, sandbox)) throw elsewhere(context, sandbox);
    return operation(sandbox);
  });
}

/** The sandbox belongs to a worker of this control plane or to none. */
function isFree({ placement }: SandboxContext, { workerId }: Sandbox): boolean {
  return placement.includes(workerId) || workerId === "";
}
