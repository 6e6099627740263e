import type { SandboxEnd } from "@opensandbox/wire/worker/worker.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** Sees to it that the row tells when the machine of a running sandbox ends by itself. */
export function watchMachine(context: SandboxContext, sandbox: Sandbox): void {
  ended(context, sandbox)
    .then(async (end) => {
      if (end.reason !== "stopped")
        await context.operations.gates.run(sandbox.id, () => markEnded(context, sandbox, end));
    })
    .catch((error: unknown) => {
      if (context.ending.aborted) return;
      context.log("error", "the end of a machine could not be recorded", {
        sandbox: sandbox.id,
        ...describeError(error),
      });
    });
}

async function ended({ worker, ending }: SandboxContext, { id }: Sandbox): Promise<SandboxEnd> {
  return await worker.waitForEnd(id, ending);
}

/**
 * Its disks stay with the worker: they can be booted again. A kernel that was to start again is started by the next
 * call, and not at once: one that panics whenever it boots must not do so for ever.
 */
async function markEnded(context: SandboxContext, watched: Sandbox, { reason, detail }: SandboxEnd): Promise<void> {
  // Whoever ends the control plane ends its sandboxes too, and the database closes after that.
  if (context.ending.aborted) return;
  const sandbox = await context.store.find(watched.id);
  if (sandbox?.state !== "running" || sandbox.generation !== watched.generation) return;
  context.activity.forget(sandbox.id);
  const bootsOnUse = reason === "reset" && !sandbox.ephemeral;
  const endReason = `the machine ended: ${detail}${bootsOnUse ? ": the next call boots its disks" : ""}`;
  await context.store.move(sandbox, "crashed", { endedAt: new Date(context.clock.now()), endReason, bootsOnUse });
  context.log("warn", "the machine of a sandbox ended by itself", { sandbox: sandbox.id, detail });
}
