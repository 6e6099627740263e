import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** The console of a running machine. @throws `not_found`, or `wrong_state` when the sandbox does not run */
export async function readConsole(
  { stores, worker, placement }: SandboxContext,
  organizationId: string,
  id: SandboxId,
): Promise<string> {
  const { state, workerId } = await stores.sandboxes.get(organizationId, id);
  if (state === "running" && placement.includes(workerId)) return await worker.readConsole(id);
  throw new SandboxError("wrong_state", `only a running sandbox has a console: ${id} is ${state}`, {
    resource: "sandbox",
    state,
    allowed: ["running"],
  });
}
