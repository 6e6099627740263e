import type { Checkpoint, SandboxInfo } from "@opensandbox/sdk";

/** A sandbox with its checkpoints, and with the sandboxes that were forked from each. */
export interface Family {
  readonly sandboxId: string;
  /** Undefined: the sandbox is deleted, and its checkpoints remain. */
  readonly sandbox: SandboxInfo | undefined;
  /** Newest first. */
  readonly checkpoints: readonly { readonly checkpoint: Checkpoint; readonly forks: readonly Family[] }[];
}

/** The family of a sandbox: from its oldest known ancestor down to every fork. */
export function familyOf(
  sandboxId: string,
  sandboxes: readonly SandboxInfo[],
  checkpoints: readonly Checkpoint[],
): Family {
  const sandboxById = new Map(sandboxes.map((sandbox) => [sandbox.id, sandbox]));
  const checkpointById = new Map(checkpoints.map((checkpoint) => [checkpoint.id, checkpoint]));
  const checkpointsOf = Map.groupBy(checkpoints, (checkpoint) => checkpoint.sandboxId);
  const forksOf = Map.groupBy(sandboxes, ({ fromCheckpointId }) => fromCheckpointId);

  const parentOf = (id: string): string | undefined =>
    checkpointById.get(sandboxById.get(id)?.fromCheckpointId ?? "")?.sandboxId;
  let root = sandboxId;
  for (let parent = parentOf(root); parent !== undefined; parent = parentOf(root)) root = parent;

  const below = (id: string): Family => ({
    sandboxId: id,
    sandbox: sandboxById.get(id),
    checkpoints: (checkpointsOf.get(id) ?? [])
      .toSorted((one, other) => other.createdAt.localeCompare(one.createdAt))
      .map((checkpoint) => ({ checkpoint, forks: (forksOf.get(checkpoint.id) ?? []).map((fork) => below(fork.id)) })),
  });
  return below(root);
}
