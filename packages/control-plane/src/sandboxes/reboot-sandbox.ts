import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { restartMachine } from "#lifecycle/restart-machine.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";

/** Restarts the guest's kernel and returns when the sandbox accepts commands. @throws `invalid_argument` when it does not run */
export async function rebootSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  await takeSandbox(context, { organizationId, id, refusal }, (sandbox) =>
    restartMachine(context, sandbox, "rebooted"),
  );
}
