import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { takeSandbox } from "./take-sandbox.ts";

/** Starts the guest's kernel again; returns when a command would work. `invalid_argument` if it does not run. */
export async function rebootSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running", undefined);
  await takeSandbox(context, { organizationId, id, refusal }, async (sandbox) => {
    await context.worker.rebootSandbox(id, context.cutOff);
    context.activity.begin(id)[Symbol.dispose]();
    context.log("info", "sandbox rebooted", { sandbox: sandbox.id });
  });
}
