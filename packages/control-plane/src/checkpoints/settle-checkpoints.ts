import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** Makes the checkpoints true that an ended server process was making: ready if the snapshot exists, else failed. */
export async function settleCheckpoints(context: SandboxContext): Promise<void> {
  const { checkpoints, worker, clock, log } = context;
  const processing = await checkpoints.listProcessing();
  const left = processing.filter(({ workerId }) => workerId === worker.id || !context.isWorkerAlive(workerId));
  await Promise.all(
    left.map(async (checkpoint) => {
      try {
        const stored = await worker.findSnapshot(checkpoint.snapshotId).catch(damaged);
        if (stored !== undefined) await checkpoints.finish(checkpoint, stored.sizeBytes);
        else await checkpoints.fail(checkpoint, "the server ended while it was being made", new Date(clock.now()));
      } catch (error) {
        log("error", "a checkpoint of an ended server could not be settled", {
          checkpoint: checkpoint.id,
          ...describeError(error),
        });
      }
    }),
  );
}

/** What cannot be read is as good as not there. */
function damaged(error: unknown): undefined {
  if (!isSandboxError(error, "incompatible")) throw error;
}
