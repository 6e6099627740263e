import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "./sandbox.ts";

/** Stops the sandbox and removes all of it but its row. One that is stopped is deleted already. */
export async function deleteSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  await context.gates.run(id, async () => {
    const sandbox = await context.store.get(organizationId, id);
    await endSandbox(context, sandbox, "it was deleted");
  });
}

/** The end of a sandbox, for whatever reason. Its gate must be held. */
export async function endSandbox(context: SandboxContext, sandbox: Sandbox, endReason: string): Promise<void> {
  if (sandbox.state === "stopped") return;
  if (sandbox.workerId !== context.worker.id) return endElsewhere(context, sandbox);

  const stopping = await context.store.move(sandbox, "delete");
  context.activity.forget(sandbox.id);
  try {
    await context.worker.stopSandbox(sandbox.id);
  } catch (error) {
    await context.store.move(stopping, "failed", {
      endedAt: new Date(context.clock.now()),
      endReason: `it could not be stopped: ${error instanceof Error ? error.message : String(error)}`,
    });
    throw error;
  }
  await context.store.move(stopping, "stopped", { endedAt: new Date(context.clock.now()), endReason });
  context.log("info", "sandbox stopped", { sandbox: sandbox.id, reason: endReason });
}

async function endElsewhere(context: SandboxContext, sandbox: Sandbox): Promise<void> {
  if (sandbox.state === "error") {
    const stopping = await context.store.move(sandbox, "delete");
    await context.store.move(stopping, "stopped");
    return;
  }
  if (!context.isWorkerAlive(sandbox.workerId)) return abandon(context, sandbox);
  throw elsewhere(sandbox);
}

/** The worker that ran it is gone, and its machine with it. */
export async function abandon(context: SandboxContext, sandbox: Sandbox): Promise<void> {
  await context.store.move(sandbox, "abandoned", {
    endedAt: new Date(context.clock.now()),
    endReason: "the server was ended",
    // Nobody was told of a sandbox that was still being created: the same key may create one again.
    ...(sandbox.state === "creating" ? { idempotencyKey: undefined } : {}),
  });
}

export function elsewhere({ id, workerId }: Sandbox): SandboxError {
  const message = `sandbox ${id} runs under another server process (${workerId}): ask that one`;
  return new SandboxError("unavailable", message, undefined);
}
