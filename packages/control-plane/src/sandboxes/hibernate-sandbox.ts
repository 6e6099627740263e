import { SandboxError } from "@opensandbox/wire/errors.ts";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { StoredSnapshot } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "./sandbox.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";

/** Saves the machine and ends it. `invalid_argument` if it does not run. */
export async function hibernateSandbox(
  context: SandboxContext,
  organizationId: string,
  id: SandboxId,
): Promise<Sandbox> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  return takeSandbox(context, { organizationId, id, refusal }, (sandbox) => putToSleep(context, sandbox));
}

/** The same for a running sandbox whose gate is held. After a failure it goes on running. */
export async function putToSleep(context: SandboxContext, sandbox: Sandbox): Promise<Sandbox> {
  const { store, worker, activity, snapshots } = context;
  const hibernationSnapshotId = newSnapshotId();
  const hibernating = await store.move(sandbox, "hibernate", { hibernationSnapshotId });
  using _ = snapshots.use(hibernationSnapshotId);
  let stored: StoredSnapshot;
  try {
    // Whoever asked for it may go away: what has begun is finished.
    stored = await worker.hibernateSandbox(sandbox.id, hibernationSnapshotId, context.cutOff);
  } catch (error) {
    await store.move(hibernating, "failed", { hibernationSnapshotId: undefined });
    throw error;
  }
  activity.forget(sandbox.id);
  const hibernated = await store.move(hibernating, "stored", {
    // Any worker may wake it; one that lives no longer than this server ends with it.
    workerId: sandbox.ephemeral ? sandbox.workerId : "",
    expiresAt: undefined,
    hibernationSizeBytes: stored.sizeBytes,
  });
  const { sizeBytes } = stored;
  context.log("info", "sandbox hibernated", { sandbox: sandbox.id, snapshot: hibernationSnapshotId, sizeBytes });
  return hibernated;
}
