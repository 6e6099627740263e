import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { Changes } from "#sandboxes/sandbox-store.ts";
import type { UploadStore } from "./upload-store.ts";

/** What became of the sandboxes of a lost worker. */
export interface Recovered {
  /** They continue from a stored state at their next use. */
  readonly recovered: number;
  /** Nothing of them is stored. */
  readonly lost: number;
}

/**
 * Brings the rows of a worker's sandboxes to what is left without it. A sandbox that ran continues from its last stored
 * checkpoint at its next use, which says so; one that was hibernated continues from its stored snapshot.
 */
export async function recoverLost(context: SandboxContext, uploads: UploadStore, workerId: string): Promise<Recovered> {
  const { sandboxes } = context.stores;
  const held = (await sandboxes.listHeld()).filter((sandbox) => sandbox.workerId === workerId).map(({ id }) => id);
  const asleep = await uploads.sleepingOnlyOn(workerId);
  let [recovered, lost] = [0, 0];
  for (const id of new Set([...held, ...asleep])) {
    await context.operations.gates.run(id, async () => {
      const sandbox = await sandboxes.find(id);
      if (sandbox === undefined || (sandbox.workerId !== workerId && !asleep.includes(id))) return;
      const outcome = await recover(context, uploads, { sandbox, workerId });
      if (outcome === "recovered") recovered += 1;
      if (outcome === "lost") lost += 1;
    });
  }
  return { recovered, lost };
}

async function recover(
  context: SandboxContext,
  uploads: UploadStore,
  { sandbox, workerId }: { readonly sandbox: Sandbox; readonly workerId: string },
): Promise<"recovered" | "lost" | "removed"> {
  const { sandboxes } = context.stores;
  const { id, state } = sandbox;
  context.activity.forget(id);
  const endedAt = new Date(context.clock.now());
  switch (state) {
    case "creating":
      await sandboxes.remove(id);
      return "removed";
    case "stopping":
    case "stopped":
      await sandboxes.move(sandbox, "stopped", { workerId: "", endedAt, endReason: "it was deleted" });
      return "removed";
    case "waking": {
      // Its snapshot was complete before the wake, so any copy of it can be used.
      const endReason = `worker ${workerId} was lost while it woke there`;
      const hibernated = await sandboxes.move(sandbox, "failed", { workerId: "", endReason });
      if (await isElsewhere(uploads, hibernated, workerId)) return "recovered";
      return await fromCheckpoint(context, uploads, { sandbox: hibernated, workerId });
    }
    case "hibernating":
      if (await isElsewhere(uploads, sandbox, workerId)) {
        await sandboxes.move(sandbox, "stored", { workerId: "", expiresAt: undefined });
        return "recovered";
      }
      return await fromCheckpoint(context, uploads, { sandbox, workerId });
    case "running":
    case "restarting":
    case "hibernated":
    case "error":
      return await fromCheckpoint(context, uploads, { sandbox, workerId });
  }
}

async function isElsewhere(
  uploads: UploadStore,
  { hibernationSnapshotId }: Sandbox,
  workerId: string,
): Promise<boolean> {
  return hibernationSnapshotId !== undefined && (await uploads.isElsewhere(hibernationSnapshotId, workerId));
}

async function fromCheckpoint(
  { stores, clock, log }: SandboxContext,
  uploads: UploadStore,
  { sandbox, workerId }: { readonly sandbox: Sandbox; readonly workerId: string },
): Promise<"recovered" | "lost"> {
  const { id } = sandbox;
  const left: Changes = {
    workerId: "",
    endedAt: new Date(clock.now()),
    expiresAt: undefined,
    bootsOnUse: false,
    hibernationSizeBytes: undefined,
  };
  const last = await uploads.lastCheckpoint(id, workerId);
  if (last === undefined) {
    const endReason = `worker ${workerId} was lost, and no state of the sandbox is stored elsewhere`;
    await stores.sandboxes.move(sandbox, "lost", { ...left, hibernationSnapshotId: undefined, endReason });
    log("warn", "a sandbox is lost with its worker", { sandbox: id, worker: workerId });
    return "lost";
  }
  const { name, snapshotId, createdAt } = last;
  const recoveredFrom = `worker ${workerId} was lost: this is checkpoint ${name} of ${createdAt.toISOString()}`;
  await stores.sandboxes.move(sandbox, "recovered", {
    ...left,
    ...{ hibernationSnapshotId: snapshotId, recoveredFrom, endReason: recoveredFrom },
  });
  log("info", "a sandbox of a lost worker continues from a checkpoint", { sandbox: id, worker: workerId, name });
  return "recovered";
}
