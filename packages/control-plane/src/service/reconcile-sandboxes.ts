import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { HeldSandbox } from "@opensandbox/wire/worker/worker.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { reconciliationOf, type Reconciliation } from "./reconciliation.ts";
import { provideSecrets } from "#secrets/refresh-secrets.ts";
import { watchMachine } from "#lifecycle/watch-machine.ts";

/**
 * Brings the rows that exited server processes left in line with the machines, disks and snapshots that this worker
 * found. Runs once, before the first request. A row that cannot be reconciled is logged and left for the next start.
 */
export async function reconcileSandboxes(context: SandboxContext): Promise<void> {
  const adopted = new Map((await context.worker.listSandboxes()).map((entry) => [entry.id, entry]));
  const held = (await context.stores.sandboxes.listHeld()).filter(
    ({ state, workerId }) => !isElsewhere(context, workerId) && !(state === "error" && workerId === ""),
  );
  // An ephemeral server adopts no machine, so it cannot tell whether another server's sandbox still has one.
  const left = context.settings.ephemeral ? held.filter(({ ephemeral, hidden }) => ephemeral || hidden) : held;
  const ids = new Set([...adopted.keys(), ...left.map(({ id }) => id)]);
  await Promise.all([...ids].map((id) => reconcile(context, id, adopted.get(id))));
}

/** Reconciles rows of no worker, which operations of ended servers left. */
export async function reconcileUnplaced(context: SandboxContext): Promise<void> {
  const held = (await context.stores.sandboxes.listHeld()).filter(
    ({ state, workerId }) => workerId === "" && state !== "error",
  );
  const { gates } = context.operations;
  await Promise.all(held.map(({ id }) => gates.run(id, () => reconcile(context, id, undefined))));
}

function isElsewhere(context: SandboxContext, workerId: string): boolean {
  return workerId !== "" && !context.placement.includes(workerId) && context.isWorkerAlive(workerId);
}

/** Brings the row of one sandbox in line with what the worker has of it. A failure is logged. */
export async function reconcile(
  context: SandboxContext,
  id: SandboxId,
  adopted: HeldSandbox | undefined,
): Promise<void> {
  try {
    const sandbox = await context.stores.sandboxes.find(id);
    const action = reconciliationOf({
      ...(sandbox === undefined ? {} : { row: { ...sandbox, elsewhere: isElsewhere(context, sandbox.workerId) } }),
      ...(adopted === undefined ? {} : { adopted }),
      snapshot: (await findSnapshot(context, sandbox)) !== undefined,
    });
    if (action === "leave") return;
    context.log("info", "reconciling a sandbox of an exited server", { sandbox: id, state: sandbox?.state, action });
    if (sandbox !== undefined) await carryOut(context, { sandbox, adopted, action });
    else if (action === "clean") await context.worker.stopSandbox(id);
  } catch (error) {
    context.log("error", "cannot reconcile a sandbox of an exited server: the next start tries again", {
      sandbox: id,
      ...describeError(error),
    });
  }
}

/** The snapshot of its hibernation. A damaged one counts as present: the wake reports the damage. */
async function findSnapshot(
  { worker }: SandboxContext,
  sandbox: Sandbox | undefined,
): Promise<{ readonly sizeBytes?: number } | undefined> {
  const snapshotId = sandbox?.hibernationSnapshotId;
  if (snapshotId === undefined) return undefined;
  try {
    return await worker.findSnapshot(snapshotId);
  } catch (error) {
    if (isSandboxError(error, "incompatible")) return {};
    throw error;
  }
}

const serverExited = "the server that ran it exited, and its machine with it";

interface Reconcile {
  readonly sandbox: Sandbox;
  readonly adopted: HeldSandbox | undefined;
  readonly action: Reconciliation;
}

async function carryOut(context: SandboxContext, { sandbox, adopted, action }: Reconcile): Promise<void> {
  const { worker, stores, clock } = context;
  const { id } = sandbox;
  const ended = { endedAt: new Date(clock.now()) };
  const ours = oursOf(context, sandbox, adopted);
  switch (action) {
    case "leave":
      return;
    case "clean":
      return worker.stopSandbox(id);
    case "run":
      if (adopted !== undefined) await adopt(context, sandbox, adopted);
      return;
    case "boot on use": {
      const endReason = "its machine ended while no server ran: the next call boots its disks";
      const changes = { ...ours, ...ended, endReason, bootsOnUse: true, hibernationSnapshotId: undefined };
      await stores.sandboxes.move(sandbox, "lost", changes, { at: await lastSeen(context, sandbox) });
      return;
    }
    case "keep disks":
      await stores.sandboxes.update(id, ours);
      return;
    case "hibernated": {
      // An interrupted wake or hibernation leaves files on the host.
      await worker.stopSandbox(id);
      const { sizeBytes } = (await findSnapshot(context, sandbox)) ?? {};
      const move = sandbox.state === "waking" ? "failed" : "stored";
      const changes = {
        workerId: "",
        expiresAt: undefined,
        ...(sizeBytes === undefined ? {} : { hibernationSizeBytes: sizeBytes }),
      };
      await stores.sandboxes.move(sandbox, move, changes, { at: await lastSeen(context, sandbox) });
      return;
    }
    case "lost": {
      const isKnown = sandbox.state === "restarting" || (sandbox.state === "error" && !sandbox.bootsOnUse);
      const changes = {
        ...ended,
        workerId: "",
        endReason: isKnown ? sandbox.endReason : serverExited,
        bootsOnUse: false,
        hibernationSnapshotId: undefined,
      };
      await stores.sandboxes.move(sandbox, "lost", changes, { at: await lastSeen(context, sandbox) });
      return;
    }
    case "undo":
      await worker.stopSandbox(id);
      await stores.sandboxes.remove(id);
      return;
    case "stop":
      await endSandbox(
        context,
        // A sandbox that no worker of a fleet has keeps none.
        { ...sandbox, workerId: context.placement.includes(worker.id) ? worker.id : sandbox.workerId },
        sandbox.ephemeral
          ? { reason: "crash", endReason: serverExited, at: await lastSeen(context, sandbox) }
          : { reason: "user_requested", endReason: "it was deleted" },
      );
  }
}

/** When the sandbox's worker was last known to be alive. It stands for the end of the machine, which no server saw. */
async function lastSeen({ stores }: SandboxContext, { workerId }: Sandbox): Promise<Date | undefined> {
  return await stores.heartbeats.last(workerId);
}

/** Records that the sandbox's machine runs. Its idle time continues from its deadline. */
async function adopt(context: SandboxContext, sandbox: Sandbox, adopted: HeldSandbox): Promise<void> {
  const { stores, activity } = context;
  // The machine is the one from before an interrupted restart, so the row keeps the restart's failure.
  const interrupted = sandbox.state === "restarting" && adopted.generation < sandbox.generation;
  const expiresAt = sandbox.expiresAt ?? activity.expiresAt(sandbox.idleTimeoutSeconds);
  const running = await stores.sandboxes.move(sandbox, "adopted", {
    ...oursOf(context, sandbox, adopted),
    expiresAt,
    endedAt: undefined,
    endReason: interrupted ? sandbox.endReason : undefined,
    bootsOnUse: false,
    hibernationSnapshotId: undefined,
    hibernationSizeBytes: undefined,
    recoveredFrom: undefined,
  });
  activity.resume(sandbox.id, sandbox.idleTimeoutSeconds, expiresAt);
  watchMachine(context, running);
  if (adopted.lacksSecrets === true) await provideSecrets(context, sandbox.id);
}

function oursOf({ worker }: SandboxContext, { generation }: Sandbox, adopted: HeldSandbox | undefined) {
  return {
    workerId: worker.id,
    generation: Math.max(generation, adopted?.generation ?? 0),
    ...(adopted === undefined ? {} : { memoryMib: adopted.memoryMib }),
  };
}
