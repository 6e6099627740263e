import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import { putToSleep } from "#sandboxes/hibernate-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** Puts away what has been idle for too long. Never rejects. */
export async function sweepSandboxes(context: SandboxContext): Promise<void> {
  await Promise.all(context.activity.sweep().map((id) => expire(context, id)));
}

async function expire(context: SandboxContext, id: SandboxId): Promise<void> {
  try {
    await context.operations.gates.run(id, async () => {
      // It may have been used while this waited.
      if (!context.activity.isExpired(id)) return;
      const sandbox = await context.store.find(id);
      if (sandbox?.state !== "running") return context.activity.forget(id);
      await putAway(context, sandbox, `it was idle for ${sandbox.idleTimeoutSeconds} seconds`);
    });
  } catch (error) {
    // Tried again when it has been idle for as long once more.
    context.activity.begin(id)[Symbol.dispose]();
    context.log("error", "an idle sandbox could not be put away", { sandbox: id, ...describeError(error) });
  }
}

/** Hibernates a running sandbox whose gate is held; deletes it where it, or the hypervisor, is not for that. */
export async function putAway(context: SandboxContext, sandbox: Sandbox, reason: string): Promise<void> {
  if (sandbox.ephemeral || sandbox.hidden) return endSandbox(context, sandbox, reason);
  try {
    await putToSleep(context, sandbox);
  } catch (error) {
    if (!isSandboxError(error, "not_supported")) throw error;
    const running = await context.store.find(sandbox.id);
    if (running !== undefined) await endSandbox(context, running, `${reason}, and ${error.message}`);
  }
}
