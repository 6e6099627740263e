import type { HeldSandbox, Worker } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { reconcileCheckpoints } from "#checkpoints/reconcile-checkpoints.ts";
import { reconcile } from "../service/reconcile-sandboxes.ts";

export interface ReconcileMember {
  readonly worker: Worker;
  /** No call of this server has reached the worker yet: its running sandboxes are not watched. */
  readonly isFirst: boolean;
}

/**
 * Brings the rows of a worker's sandboxes in line with what it has. A sandbox with an operation under way is reconciled
 * after it.
 */
export async function reconcileMember(context: SandboxContext, { worker, isFirst }: ReconcileMember): Promise<void> {
  const scoped = scopeOf(context, worker);
  const found = await adoptedBy(worker);
  const rows = await context.stores.sandboxes.listHeldBy(worker.id);
  const inRows = new Map(rows.map((row) => [row.id, row]));
  const ids = [...new Set([...found.keys(), ...inRows.keys()])];
  await Promise.all(
    ids
      .filter((id) => isFirst || !agrees(inRows.get(id), found.get(id)))
      .map((id) =>
        context.operations.gates.run(id, async () => {
          const adopted = isFirst ? found.get(id) : (await adoptedBy(worker)).get(id);
          if (!isFirst && agrees(await rowOf(context, worker, id), adopted)) return;
          await reconcile(scoped, id, adopted);
        }),
      ),
  );
  if (isFirst) await reconcileCheckpoints(scoped);
}

/** Brings one sandbox whose gate is held in line with what its worker has. */
export async function reconcileOn(context: SandboxContext, worker: Worker, id: SandboxId): Promise<void> {
  const adopted = (await adoptedBy(worker)).get(id);
  if (agrees(await rowOf(context, worker, id), adopted)) return;
  await reconcile(scopeOf(context, worker), id, adopted);
}

/** The context of use cases that touch the sandboxes of this worker alone. */
function scopeOf(context: SandboxContext, worker: Worker): SandboxContext {
  return {
    ...context,
    worker,
    placement: {
      includes: (workerId) => workerId === worker.id,
      holderOf: ({ workerId }) => (workerId === worker.id ? worker.id : undefined),
      choose: () => Promise.resolve(worker.id),
    },
    isWorkerAlive: (workerId) => workerId !== worker.id,
  };
}

async function adoptedBy(worker: Worker): Promise<Map<SandboxId, HeldSandbox>> {
  return new Map((await worker.listSandboxes()).map((each) => [each.id, each]));
}

async function rowOf({ stores }: SandboxContext, worker: Worker, id: SandboxId): Promise<Sandbox | undefined> {
  const row = await stores.sandboxes.find(id);
  return row?.workerId === worker.id ? row : undefined;
}

/** Whether the row agrees with what the worker has: a running machine, disks whose machine has ended, or nothing. */
function agrees(row: Sandbox | undefined, adopted: HeldSandbox | undefined): boolean {
  switch (row?.state) {
    case "running":
      return adopted?.running === true && adopted.lacksSecrets !== true;
    case "error":
      return adopted?.running === false;
    case "hibernated":
    case "stopped":
    case undefined:
      return adopted === undefined;
    // An operation is under way, or was interrupted.
    case "creating":
    case "hibernating":
    case "waking":
    case "restarting":
    case "stopping":
      return false;
  }
}
