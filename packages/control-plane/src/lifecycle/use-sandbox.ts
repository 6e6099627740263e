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
 * A call to a sandbox begins: waits for what changes its life, wakes it if it sleeps, and keeps it from being idle
 * until disposed. However many calls a sleeping sandbox gets, it is woken once, and all of them share a failure.
 */
export async function useSandbox(
  context: SandboxContext,
  organizationId: string,
  id: SandboxId,
  signal: AbortSignal,
): Promise<Use> {
  await context.store.get(organizationId, id);
  for (;;) {
    await context.operations.wakes.join(id, signal);
    await context.operations.gates.open(id, signal);
    // Begun before the state is read: whoever puts idle sandboxes away sees this use, or here it is seen to sleep.
    const use = context.activity.begin(id);
    try {
      const sandbox = await context.store.get(organizationId, id);
      if (sandbox.state === "running") {
        if (sandbox.workerId !== context.worker.id) throw elsewhere(context, sandbox);
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

/** A call to it makes it run again. */
function isAsleep({ state, bootsOnUse }: Sandbox): boolean {
  return state === "hibernated" || (state === "error" && bootsOnUse);
}

async function rouse(context: SandboxContext, id: SandboxId): Promise<void> {
  await context.operations.gates.run(id, async () => {
    const sandbox = await context.store.find(id);
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
