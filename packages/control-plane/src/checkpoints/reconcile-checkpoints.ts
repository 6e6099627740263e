import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** Completes checkpoints that an exited server was making: ready when the snapshot exists, failed otherwise. */
export async function reconcileCheckpoints(context: SandboxContext): Promise<void> {
  const { stores, worker, placement, clock, log } = context;
  const processing = await stores.checkpoints.listProcessing();
  const left = processing.filter(({ workerId }) => placement.includes(workerId) || !context.isWorkerAlive(workerId));
  await Promise.all(
    left.map(async (checkpoint) => {
      try {
        if (await isUnderWay(context, checkpoint)) return;
        const stored = await worker.findSnapshot(checkpoint.snapshotId).catch(damaged);
        if (stored !== undefined) await stores.checkpoints.finish(checkpoint, stored.sizeBytes);
        else
          await stores.checkpoints.fail(
            checkpoint,
            "the server exited while the checkpoint was being made",
            new Date(clock.now()),
          );
      } catch (error) {
        log("error", "cannot reconcile a checkpoint of an exited server: the next start tries again", {
          checkpoint: checkpoint.id,
          ...describeError(error),
        });
      }
    }),
  );
}

/** A server that still runs makes it. */
async function isUnderWay({ servers }: SandboxContext, { serverId }: Checkpoint): Promise<boolean> {
  return (
    servers.id !== undefined && serverId !== undefined && (serverId === servers.id || (await servers.isAlive(serverId)))
  );
}

/** A damaged snapshot counts as absent. */
function damaged(error: unknown): undefined {
  if (!isSandboxError(error, "incompatible")) throw error;
}
