import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { checkpointNotFound } from "./checkpoint-store.ts";
import type { Checkpoint } from "./checkpoint.ts";

export interface CheckpointOfSandbox {
  readonly organizationId: string;
  readonly id: SandboxId;
  readonly checkpointId: string;
}

/** A visible checkpoint of the sandbox. @throws `not_found` */
export async function getCheckpoint(
  { stores }: Pick<SandboxContext, "stores">,
  { organizationId, id, checkpointId }: CheckpointOfSandbox,
): Promise<Checkpoint> {
  const checkpoint = await stores.checkpoints.get(organizationId, checkpointId);
  if (checkpoint.sandboxId !== id || checkpoint.hidden) throw checkpointNotFound(checkpointId);
  return checkpoint;
}

/** The checkpoints of a sandbox, which may be deleted, oldest first. */
export async function listCheckpoints(
  { stores }: Pick<SandboxContext, "stores">,
  organizationId: string,
  id: SandboxId,
): Promise<Checkpoint[]> {
  await stores.sandboxes.get(organizationId, id);
  return stores.checkpoints.listOf(organizationId, id);
}
