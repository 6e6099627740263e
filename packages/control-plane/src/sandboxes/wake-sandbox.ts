import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { StartedSandbox } from "@opensandbox/wire/worker/worker.ts";
import { applyPatches } from "#checkpoints/apply-patches.ts";
import { elsewhere } from "#lifecycle/elsewhere.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import type { Start } from "#lifecycle/placement.ts";
import { markRunning, startOnWorker, type Started } from "#lifecycle/start-on-worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { isOutcomeUnknown } from "#lifecycle/unknown-outcome.ts";
import { wrongState, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import { requireDisk } from "./disk-limits.ts";
import type { Sandbox } from "./sandbox.ts";

export interface WakeSandbox {
  readonly organizationId: string;
  readonly id: SandboxId;
  /** Absent: unchanged. */
  readonly idleTimeoutSeconds?: number;
}

interface WakeOptions {
  /** Absent: unchanged. */
  readonly idleTimeoutSeconds?: number;
  /** Absent: on any worker. */
  readonly move?: Start["move"];
}

/** The states in which a wake is accepted. */
const sleeping: readonly SandboxState[] = ["hibernating", "hibernated", "waking"];

/**
 * Wakes a hibernated sandbox, with another idle timeout if one is given. When another call has woken it since, the wake
 * succeeds as well.
 * @throws `invalid_argument` when it is not hibernated
 */
export async function wakeSandbox(
  context: SandboxContext,
  { organizationId, id, idleTimeoutSeconds }: WakeSandbox,
): Promise<Started> {
  const asked = await context.stores.sandboxes.get(organizationId, id);
  // A delete that is under way decides the answer, so the wake queues behind it.
  if (!sleeping.includes(asked.state) && asked.state !== "stopping") {
    throw new SandboxError("invalid_argument", "sandbox is not hibernated");
  }
  return context.operations.gates.run(id, async () => {
    const sandbox = await context.stores.sandboxes.get(organizationId, id);
    if (sandbox.state === "hibernated") {
      return wake(context, sandbox, idleTimeoutSeconds === undefined ? {} : { idleTimeoutSeconds });
    }
    if (sandbox.state !== "running") {
      throw wrongState(sandbox.state, ["hibernated"], `sandbox is not hibernated: it is ${sandbox.state}`);
    }
    if (!context.placement.includes(sandbox.workerId)) throw elsewhere(context, sandbox);
    return { sandbox: await withTimeout(context, sandbox, idleTimeoutSeconds), spans: [] };
  });
}

/**
 * Wakes a hibernated sandbox whose gate is held. When the wake fails, the sandbox stays hibernated and its row says why.
 * When it is unknown whether the wake has failed, the sandbox stays waking.
 * The snapshot is removed only after the row says that the sandbox runs.
 */
export async function wake(
  context: SandboxContext,
  sandbox: Sandbox,
  { idleTimeoutSeconds = sandbox.idleTimeoutSeconds, move }: WakeOptions = {},
): Promise<Started> {
  const { stores, placement, snapshots } = context;
  await requireDisk(context, sandbox.organizationId);
  const limits = await limitsOf(context, sandbox.organizationId);
  const generation = sandbox.generation + 1;
  const workerId = await placement.choose({ ...sandbox, snapshotId: sandbox.hibernationSnapshotId, move });
  const waking = await stores.sandboxes.move(sandbox, "wake", { workerId, generation }, { limits });
  const started = await startFromHibernation(context, waking);
  const running = await markRunning(context, waking, started, {
    idleTimeoutSeconds,
    hibernationSnapshotId: undefined,
    hibernationSizeBytes: undefined,
  });
  context.operations.background.run("removing a snapshot", { sandbox: sandbox.id }, () => snapshots.removeUnwanted());
  context.log("info", "sandbox woken", { sandbox: sandbox.id, ...started });
  return { sandbox: await applyPatches(context, running, context.shutdown.ending), spans: started.spans };
}

async function startFromHibernation(context: SandboxContext, waking: Sandbox): Promise<StartedSandbox> {
  const snapshotId = waking.hibernationSnapshotId;
  try {
    if (snapshotId === undefined) throw noHibernation("none is recorded");
    // Other callers may wait for the same wake, so it continues when this one disconnects.
    const from = { kind: "snapshot", snapshotId, identity: "same" } as const;
    return await startOnWorker(context, waking, from, context.shutdown.ending);
  } catch (error) {
    // Its machine may run there. The row stays unchanged, so that no other worker starts one, until the worker answers
    // again or is lost.
    if (isOutcomeUnknown(error)) throw error;
    const failure = isSandboxError(error, "not_found") ? noHibernation(error.message, error) : error;
    const why = failure instanceof Error ? failure.message : String(failure);
    const workerId = waking.ephemeral ? waking.workerId : "";
    await context.stores.sandboxes.move(waking, "failed", { workerId, endReason: `it could not be woken: ${why}` });
    throw failure;
  }
}

function noHibernation(detail: string, cause?: SandboxError): SandboxError<"not_found"> {
  const message = `no active hibernation found: ${detail}`;
  return new SandboxError("not_found", message, { resource: "snapshot", id: "" }, { cause });
}

async function withTimeout(
  { stores, activity }: SandboxContext,
  sandbox: Sandbox,
  idleTimeoutSeconds = sandbox.idleTimeoutSeconds,
): Promise<Sandbox> {
  activity.watch(sandbox.id, idleTimeoutSeconds);
  return stores.sandboxes.update(sandbox.id, { idleTimeoutSeconds, expiresAt: activity.expiresAt(idleTimeoutSeconds) });
}
