import type { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { elsewhere } from "./elsewhere.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { passingStates, wrongState, type SandboxState } from "./sandbox-lifecycle.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** What is asked for, and what to say where the sandbox is in no state for it. */
export interface Take {
  readonly organizationId: string;
  readonly id: SandboxId;
  readonly refusal: SandboxError;
  /** Default: running. */
  readonly states?: readonly SandboxState[];
}

/**
 * An operation on a sandbox that runs on this worker, through its gate. A sandbox that was in no state for it when it
 * was asked for is refused in the caller's words; one that got into another state while this waited has lost a race,
 * which is `wrong_state` with the state as it is.
 */
export async function takeSandbox<T>(
  context: SandboxContext,
  { organizationId, id, refusal, states = ["running"] }: Take,
  operation: (sandbox: Sandbox) => Promise<T>,
): Promise<T> {
  const asked = await context.store.get(organizationId, id);
  if (!states.includes(asked.state) && !passingStates.includes(asked.state)) throw refusal;
  return context.operations.gates.run(id, async () => {
    const sandbox = await context.store.get(organizationId, id);
    if (!states.includes(sandbox.state)) {
      throw wrongState(sandbox.state, states, `${refusal.message}: it is ${sandbox.state}`);
    }
    if (!isFree(context, sandbox)) throw elsewhere(context, sandbox);
    return operation(sandbox);
  });
}

/** It is this worker's, or nobody's. */
function isFree({ worker }: SandboxContext, { workerId }: Sandbox): boolean {
  return workerId === worker.id || workerId === "";
}
