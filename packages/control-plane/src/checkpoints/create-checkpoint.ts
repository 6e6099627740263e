import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { elsewhere } from "#lifecycle/elsewhere.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { wrongState, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import { requireDisk } from "#sandboxes/disk-limits.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { Checkpoint, CheckpointKind } from "./checkpoint.ts";

export interface NewCheckpoint {
  readonly name: string;
  readonly kind: CheckpointKind;
  readonly promoteToFull: boolean;
  /** How many of its kind to keep: when it is ready, the oldest beyond that number are deleted. Absent: all are kept. */
  readonly keep?: number;
}

const limits = { full: 10, disk_only: 100 } as const satisfies Record<CheckpointKind, number>;

// A sandbox that is about to run is accepted: the capture queues behind the operation at the gate.
const capturable: readonly SandboxState[] = ["creating", "running", "waking", "restarting"];

/**
 * Adds a checkpoint of a running sandbox and begins to capture it. It is `processing` until its snapshot exists.
 * @throws `invalid_argument` when a limit is reached or the sandbox does not run
 * @throws `already_exists` when the sandbox has a checkpoint of that name
 */
export async function createCheckpoint(
  context: SandboxContext,
  { organizationId, id, wanted }: { organizationId: string; id: SandboxId; wanted: NewCheckpoint },
): Promise<Checkpoint> {
  const sandbox = await context.stores.sandboxes.get(organizationId, id);
  requireCapturable(context, sandbox);
  await requireDisk(context, organizationId);
  const checkpoint = checkpointOf(context, sandbox, wanted);
  const limit = { count: limits[wanted.kind], replaces: wanted.keep !== undefined };
  const added = await context.stores.checkpoints.add(checkpoint, limit);
  if (added === "limit reached") {
    const message = `maximum ${limit.count} ${wanted.kind === "full" ? "" : "disk_only "}checkpoints per sandbox`;
    throw new SandboxError("invalid_argument", message);
  }
  if (added === "name used") {
    const message = "checkpoint name already exists for this sandbox";
    throw new SandboxError("already_exists", message, { resource: "checkpoint", id: wanted.name });
  }
  const keep = wanted.keep === undefined ? undefined : Math.min(wanted.keep, limit.count);
  context.operations.background.run("a checkpoint", { sandbox: id, checkpoint: checkpoint.id }, () =>
    context.operations.captures.run(checkpoint.id, () =>
      context.operations.gates.run(id, () => captureCheckpoint(context, checkpoint, keep)),
    ),
  );
  return checkpoint;
}

/** Captures the snapshot of a `processing` checkpoint. The sandbox's gate must be held. */
export async function captureCheckpoint(context: SandboxContext, checkpoint: Checkpoint, keep?: number): Promise<void> {
  const { stores, snapshots, worker, clock, log } = context;
  const { id, sandboxId, snapshotId, kind } = checkpoint;
  try {
    await using _ = await snapshots.use(snapshotId);
    const sandbox = await stores.sandboxes.find(sandboxId);
    if (sandbox?.state !== "running") {
      throw wrongState(sandbox?.state ?? "stopped", ["running"], `the sandbox is ${sandbox?.state ?? "deleted"}`);
    }
    // Earlier captures of this sandbox have taken disk since the request.
    await requireDisk(context, sandbox.organizationId);
    const contents = kind === "full" ? "memory and disks" : "disks";
    const { sizeBytes, pausedMs } = await worker.captureSandbox(
      sandboxId,
      { snapshotId, contents },
      context.shutdown.cutOff,
    );
    await stores.checkpoints.finish(checkpoint, sizeBytes, keep);
    log("info", "checkpoint ready", { sandbox: sandboxId, checkpoint: id, sizeBytes, pausedMs });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    await stores.checkpoints.fail(checkpoint, why, new Date(clock.now()));
    throw error;
  } finally {
    context.operations.background.run("removing snapshots", { checkpoint: id }, () => snapshots.removeUnwanted());
  }
}

function requireCapturable(context: SandboxContext, sandbox: Sandbox): void {
  const { state, workerId } = sandbox;
  const message = "sandbox must be running to create a checkpoint";
  if (state === "hibernating" || state === "stopping") {
    throw wrongState(state, ["running"], `${message}: it is ${state}`);
  }
  if (!capturable.includes(state)) throw new SandboxError("invalid_argument", message);
  if (!context.placement.includes(workerId)) throw elsewhere(context, sandbox);
}

/** The row of a checkpoint of the sandbox in its present shape. */
export function checkpointOf(context: SandboxContext, sandbox: Sandbox, wanted: NewCheckpoint): Checkpoint {
  const { organizationId, image, vcpus, memoryMib, workspaceMib, networkEnabled, egress, envs, metadata } = sandbox;
  const { secretStores, authorityId } = sandbox;
  return {
    id: randomUUID(),
    organizationId,
    sandboxId: sandbox.id,
    name: wanted.name,
    kind: wanted.kind,
    promoteToFull: wanted.promoteToFull,
    status: "processing",
    snapshotId: newSnapshotId(),
    sizeBytes: 0,
    isPublic: false,
    hidden: sandbox.hidden,
    workerId: sandbox.workerId,
    serverId: context.servers.id,
    image,
    vcpus,
    memoryMib,
    workspaceMib,
    networkEnabled,
    egress,
    envs,
    metadata,
    secretStores,
    authorityId,
    lastPatchSequence: sandbox.lastPatchSequence,
    createdAt: new Date(context.clock.now()),
  };
}
