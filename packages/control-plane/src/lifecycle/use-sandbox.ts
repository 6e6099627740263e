import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Use } from "./activity.ts";
import { elsewhere } from "./elsewhere.ts";
import { restartMachine } from "./restart-machine.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { wrongState } from "./sandbox-lifecycle.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { wake } from "#sandboxes/wake-sandbox.ts";

/**
 * Begins a call to a sandbox: waits for operations that change its state, wakes it when it sleeps, and keeps it from
 * being idle until disposed. Any number of calls to a sleeping sandbox cause one wake, and share its failure.
 */
export async function useSandbox(
  context: SandboxContext,
  organizationId: string,
  id: SandboxId,
  signal: AbortSignal,
): Promise<Use> {
  await context.stores.sandboxes.get(organizationId, id);
  for (;;) {
    await context.operations.wakes.join(id, signal);
    await context.operations.gates.open(id, signal);
    // The use begins before the state is read: either the idle sweep sees this call, or this call sees the sandbox
    // asleep.
    const use = context.activity.begin(id);
    try {
      await context.activity.renewed(id);
      const sandbox = await context.stores.sandboxes.get(organizationId, id);
      if (sandbox.state === "running") {
        if (!context.placement.includes(sandbox.workerId)) throw elsewhere(context, sandbox);
        return use;
      }
      if (!isAsleep(sandbox)) throw cannotBeUsed(sandbox);
    } catch (error) {
      use[Symbol.dispose]();
      throw error;
    }
    use[Symbol.dispose]();
    await context.operations.wakes.run(id, () => rouse(context, id), signal);
  }
}

/** A call makes the sandbox run again. */
function isAsleep({ state, bootsOnUse }: Sandbox): boolean {
  return state === "hibernated" || (state === "error" && bootsOnUse);
}

async function rouse(context: SandboxContext, id: SandboxId): Promise<void> {
  await context.operations.gates.run(id, async () => {
    const sandbox = await context.stores.sandboxes.find(id);
    if (sandbox === undefined || !isAsleep(sandbox)) return;
    if (sandbox.state === "hibernated") await wake(context, sandbox);
    else await restartMachine(context, sandbox, "power-cycled");
  });
}

function cannotBeUsed({ id, state, endReason }: Sandbox): SandboxError {
  const message = `sandbox ${id} is ${state}${endReason === undefined ? "" : `: ${endReason}`}`;
  if (state === "stopped" || state === "error") {
    return new SandboxError("gone", message, { resource: "sandbox", state });
  }
  return wrongState(state, ["running"], message);
}
