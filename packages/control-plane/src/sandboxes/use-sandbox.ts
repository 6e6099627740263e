import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Use } from "./activity.ts";
import { elsewhere } from "./delete-sandbox.ts";
import type { SandboxContext } from "./sandbox-context.ts";

/** A call to a running sandbox begins: waits for what changes its life, and keeps it from being idle until disposed. */
export async function useSandbox(
  context: SandboxContext,
  organizationId: string,
  id: SandboxId,
  signal: AbortSignal,
): Promise<Use> {
  await context.store.get(organizationId, id);
  await context.gates.open(id, signal);
  // Begun before the state is read: whoever ends idle sandboxes sees either this use or a stopped one is seen here.
  const use = context.activity.begin(id);
  try {
    const sandbox = await context.store.get(organizationId, id);
    if (sandbox.state !== "running") {
      const why = sandbox.endReason === undefined ? "" : `: ${sandbox.endReason}`;
      throw new SandboxError("wrong_state", `sandbox ${id} is ${sandbox.state}${why}`, {
        resource: "sandbox",
        state: sandbox.state,
        allowed: ["running"],
      });
    }
    if (sandbox.workerId !== context.worker.id) throw elsewhere(sandbox);
    return use;
  } catch (error) {
    use[Symbol.dispose]();
    throw error;
  }
}
