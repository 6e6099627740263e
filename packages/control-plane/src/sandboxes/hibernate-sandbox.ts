import { SandboxError } from "@opensandbox/wire/errors.ts";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { StoredSnapshot } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { isOutcomeUnknown } from "#lifecycle/unknown-outcome.ts";
import type { Sandbox } from "./sandbox.ts";
import type { MoveOptions } from "./sandbox-store.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";

/** Saves a sandbox's memory and disks and stops its machine. @throws `invalid_argument` when it does not run */
export async function hibernateSandbox(
  context: SandboxContext,
  organizationId: string,
  id: SandboxId,
): Promise<Sandbox> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  return takeSandbox(context, { organizationId, id, refusal }, (sandbox) => putToSleep(context, sandbox));
}

/** Hibernates a running sandbox whose gate is held. After a failure the sandbox keeps running. */
export async function putToSleep(
  context: SandboxContext,
  sandbox: Sandbox,
  options: Pick<MoveOptions, "idleAt"> = {},
): Promise<Sandbox> {
  const { stores, worker, activity, snapshots } = context;
  const hibernationSnapshotId = newSnapshotId();
  await using _ = await snapshots.use(hibernationSnapshotId);
  const hibernating = await stores.sandboxes.move(sandbox, "hibernate", { hibernationSnapshotId }, options);
  let stored: StoredSnapshot;
  try {
    // A hibernation that has begun completes even when its caller disconnects.
    stored = await worker.hibernateSandbox(sandbox.id, hibernationSnapshotId, context.shutdown.cutOff);
  } catch (error) {
    // The worker may have hibernated it. The row stays unchanged until the worker answers again.
    if (isOutcomeUnknown(error)) throw error;
    await stores.sandboxes.move(hibernating, "failed", { hibernationSnapshotId: undefined });
    throw error;
  }
  activity.forget(sandbox.id);
  const hibernated = await stores.sandboxes.move(hibernating, "stored", {
    // Any worker may wake it, except that an ephemeral sandbox stays with this server and ends with it.
    workerId: sandbox.ephemeral ? sandbox.workerId : "",
    expiresAt: undefined,
    recoveredFrom: undefined,
    hibernationSizeBytes: stored.sizeBytes,
  });
  const { sizeBytes } = stored;
  context.log("info", "sandbox hibernated", { sandbox: sandbox.id, snapshot: hibernationSnapshotId, sizeBytes });
  return hibernated;
}
