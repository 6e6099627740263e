import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { StopReason } from "@opensandbox/wire/public/events.ts";
import { elsewhere } from "#lifecycle/elsewhere.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "./sandbox.ts";

/** Stops a sandbox and removes everything but its row and its checkpoints. A stopped sandbox stays as it is. */
export async function deleteSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  await context.operations.gates.run(id, async () => {
    const sandbox = await context.stores.sandboxes.get(organizationId, id);
    await endSandbox(context, sandbox, { reason: "user_requested", endReason: "it was deleted" });
  });
}

/** Why a sandbox ends. */
export interface End {
  /** The reason in the sandbox's event. */
  readonly reason: StopReason;
  /** The reason in the sandbox's row, as text for people. */
  readonly endReason: string;
  /** When its machine ended, if that was before now. */
  readonly at?: Date | undefined;
}

/** Stops a sandbox for the given reason. Its gate must be held. */
export async function endSandbox(context: SandboxContext, sandbox: Sandbox, end: End): Promise<void> {
  const { reason, endReason, at } = end;
  const { stores, worker, placement, activity, clock, snapshots } = context;
  if (sandbox.state === "stopped") return;
  const workerId = placement.holderOf(sandbox);
  if (workerId === undefined && sandbox.workerId !== "" && context.isWorkerAlive(sandbox.workerId)) {
    throw elsewhere(context, sandbox);
  }

  const stopping = await stores.sandboxes.move(sandbox, "delete", workerId === undefined ? {} : { workerId });
  activity.forget(sandbox.id);
  try {
    // Files of a dead worker are removed by the next start of a server.
    if (workerId !== undefined) await worker.stopSandbox(sandbox.id);
  } catch (error) {
    await stores.sandboxes.move(stopping, "failed", {
      endedAt: new Date(clock.now()),
      endReason: `it could not be stopped: ${error instanceof Error ? error.message : String(error)}`,
    });
    throw error;
  }
  const changes = {
    expiresAt: undefined,
    endedAt: new Date(clock.now()),
    endReason,
    bootsOnUse: false,
    hibernationSnapshotId: undefined,
    hibernationSizeBytes: undefined,
  };
  await stores.sandboxes.move(stopping, "stopped", changes, { reason, at });
  if (stopping.hibernationSnapshotId !== undefined) await snapshots.removeUnwanted();
  context.log("info", "sandbox stopped", { sandbox: sandbox.id, reason: endReason });
}
