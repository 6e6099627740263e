import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** The console of a machine that runs. @throws `not_found`; `wrong_state` for one that does not run */
export async function readConsole(
  { store, worker }: SandboxContext,
  organizationId: string,
  id: SandboxId,
): Promise<string> {
  const { state, workerId } = await store.get(organizationId, id);
  if (state === "running" && workerId === worker.id) return await worker.readConsole(id);
  throw new SandboxError("wrong_state", `only a sandbox that runs has a console: ${id} is ${state}`, {
    resource: "sandbox",
    state,
    allowed: ["running"],
  });
}
