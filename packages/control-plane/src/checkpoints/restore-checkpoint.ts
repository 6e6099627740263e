import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { StartedSandbox } from "@opensandbox/wire/worker/worker.ts";
import { markRunning, startOnWorker } from "#lifecycle/start-on-worker.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";
import { applyPatches } from "./apply-patches.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { CheckpointOfSandbox } from "./get-checkpoint.ts";

/**
 * Restores a sandbox to one of its checkpoints. Returns when the restore has begun and holds the gate, so that every later
 * call to the sandbox waits for its end. A sandbox whose machine has ended can be restored too.
 */
export async function restoreCheckpoint(
  context: SandboxContext,
  { organizationId, id, checkpointId }: CheckpointOfSandbox,
): Promise<void> {
  await context.stores.sandboxes.get(organizationId, id);
  const checkpoint = await context.stores.checkpoints.get(organizationId, checkpointId);
  if (checkpoint.sandboxId !== id) throw refusal("checkpoint does not belong to this sandbox");
  if (checkpoint.status !== "ready") throw refusal("checkpoint is not ready");

  const begun = Promise.withResolvers<void>();
  const mustRun = refusal("sandbox must be running to restore a checkpoint");
  const take = { organizationId, id, refusal: mustRun, states: ["running", "error"] } as const;
  context.operations.background.run("a restore", { sandbox: id, checkpoint: checkpointId }, async () => {
    try {
      await takeSandbox(context, take, (sandbox) => restore(context, { sandbox, checkpoint }, () => begun.resolve()));
    } catch (error) {
      begun.reject(error);
      throw error;
    }
  });
  await begun.promise;
}

async function restore(
  context: SandboxContext,
  { sandbox, checkpoint }: { readonly sandbox: Sandbox; readonly checkpoint: Checkpoint },
  onBegin: () => void,
): Promise<void> {
  const { stores, worker, placement, activity, snapshots, log } = context;
  const { cutOff } = context.shutdown;
  await using _ = await snapshots.use(checkpoint.snapshotId);
  // A running sandbox counts already, with the memory that it has now.
  const grows = sandbox.state !== "running" || checkpoint.memoryMib > sandbox.memoryMib;
  const options = grows ? { limits: await limitsOf(context, sandbox.organizationId) } : {};
  const memoryMib = Math.max(sandbox.memoryMib, checkpoint.memoryMib);
  const endReason = `the restore of checkpoint ${checkpoint.name} was interrupted: restore it again`;
  const generation = sandbox.generation + 1;
  const wanted = { ...sandbox, memoryMib, snapshotId: checkpoint.snapshotId };
  const workerId = placement.holderOf(sandbox) ?? (await placement.choose(wanted));
  const restarting = await stores.sandboxes.move(
    sandbox,
    "restart",
    { generation, workerId, endReason, memoryMib },
    options,
  );
  activity.forget(sandbox.id);
  onBegin();
  let started: StartedSandbox;
  try {
    await worker.stopSandbox(sandbox.id);
    const from = { kind: "snapshot", snapshotId: checkpoint.snapshotId, identity: "same" } as const;
    started = await startOnWorker(context, { ...restarting, ...shapeOf(checkpoint) }, from, cutOff);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    await stores.sandboxes.move(restarting, "failed", {
      endedAt: new Date(context.clock.now()),
      memoryMib: sandbox.memoryMib,
      endReason: `cannot restore checkpoint ${checkpoint.name}: ${why}`,
    });
    throw error;
  }
  const { lastPatchSequence } = checkpoint;
  const running = await markRunning(context, restarting, started, { ...shapeOf(checkpoint), lastPatchSequence });
  log("info", "sandbox restored", { sandbox: sandbox.id, checkpoint: checkpoint.id, ...started });
  await applyPatches(context, running, context.shutdown.ending);
}

/**
 * The network policy is not restored: when the owner has tightened it since the checkpoint, the tighter policy stays in
 * force.
 */
function shapeOf({ vcpus, memoryMib, workspaceMib }: Checkpoint) {
  return { vcpus, memoryMib, workspaceMib };
}

function refusal(message: string): SandboxError<"invalid_argument"> {
  return new SandboxError("invalid_argument", message);
}
