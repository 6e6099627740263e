import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { getCheckpoint, type CheckpointOfSandbox } from "./get-checkpoint.ts";

/** Removes a checkpoint and its patches. Its forks are not affected. */
export async function deleteCheckpoint(context: SandboxContext, asked: CheckpointOfSandbox): Promise<void> {
  const checkpoint = await getCheckpoint(context, asked);
  await context.stores.checkpoints.remove(checkpoint);
  await context.snapshots.removeUnwanted();
}
