import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { restartMachine } from "#lifecycle/restart-machine.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";

/** Starts the guest's kernel again; returns when a command would work. `invalid_argument` if it does not run. */
export async function rebootSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  await takeSandbox(context, { organizationId, id, refusal }, (sandbox) =>
    restartMachine(context, sandbox, "rebooted"),
  );
}
