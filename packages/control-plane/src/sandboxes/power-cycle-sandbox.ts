import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { restartMachine } from "#lifecycle/restart-machine.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";

/**
 * Boots a sandbox's disks with a new machine, whether it runs or its machine ended by itself.
 * @throws `invalid_argument` in any other state
 */
export async function powerCycleSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  await takeSandbox(context, { organizationId, id, refusal, states: ["running", "error"] }, (sandbox) =>
    restartMachine(context, sandbox, "power-cycled"),
  );
}
