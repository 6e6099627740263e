import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { takeSandbox } from "./take-sandbox.ts";
import { putToSleep } from "#sandboxes/hibernate-sandbox.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { wake } from "#sandboxes/wake-sandbox.ts";

export interface MigrateSandbox {
  readonly organizationId: string;
  readonly id: SandboxId;
  /** Absent: the best of the other workers. */
  readonly workerId?: string | undefined;
}

export interface Migrated {
  readonly sandbox: Sandbox;
  readonly sourceWorkerId: string;
  /** How long calls to the sandbox waited, in milliseconds. */
  readonly elapsedMs: number;
}

/**
 * Moves a running sandbox to another worker, with its memory. Calls to the sandbox wait meanwhile.
 * @throws `invalid_argument` when it does not run, `not_supported` without other workers or an object store
 */
export async function migrateSandbox(
  context: SandboxContext,
  { organizationId, id, workerId }: MigrateSandbox,
): Promise<Migrated> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  return await takeSandbox(context, { organizationId, id, refusal }, (sandbox) =>
    moveSandbox(context, sandbox, workerId),
  );
}

/**
 * Moves a running sandbox whose gate is held: hibernates it, stores the snapshot, wakes it elsewhere. When a step fails
 * after the hibernation, the sandbox wakes on any worker, which may be the one that it was to leave.
 */
export async function moveSandbox(
  context: SandboxContext,
  sandbox: Sandbox,
  workerId: string | undefined,
): Promise<Migrated> {
  const { placement, worker, clock, log } = context;
  const move = { from: sandbox.workerId, to: workerId };
  // Before the sandbox is interrupted: is there a worker that could take it?
  await placement.choose({ ...sandbox, move });
  const began = clock.now();
  const asleep = await putToSleep(context, sandbox);
  let woken: Sandbox;
  try {
    if (asleep.hibernationSnapshotId === undefined) throw new Error("a hibernated sandbox has no snapshot");
    await worker.uploadSnapshot(asleep.hibernationSnapshotId, context.shutdown.cutOff);
    ({ sandbox: woken } = await wake(context, asleep, { move }));
  } catch (error) {
    log("warn", "cannot move a sandbox: it wakes where it can", { sandbox: sandbox.id, ...describeError(error) });
    const left = await context.stores.sandboxes.find(sandbox.id);
    if (left?.state === "hibernated") await wake(context, left);
    throw error;
  }
  const elapsedMs = clock.now() - began;
  log("info", "sandbox moved", { sandbox: sandbox.id, from: sandbox.workerId, to: woken.workerId, elapsedMs });
  return { sandbox: woken, sourceWorkerId: sandbox.workerId, elapsedMs };
}
