import type { SandboxId } from "@opensandbox/wire/ids.ts";
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
 * Brings the rows of a worker's sandboxes to what is left without it, because its host will not come back. A sandbox that
 * ran continues from its last stored checkpoint at its next use, which says so; one that was hibernated continues from its
 * stored snapshot.
 */
export async function recoverLost(context: SandboxContext, uploads: UploadStore, workerId: string): Promise<Recovered> {
  const asleep = await uploads.sleepingOnlyOn(workerId);
  return await recoverEach(context, { uploads, workerId, asleep, keepsOthers: false });
}

/**
 * Lets the sandboxes of a worker that may come back continue from what is stored of them. Those of which nothing is stored
 * wait for it. Until its next use, a sandbox still becomes the machine of the worker when that comes back.
 */
export async function recoverStored(
  context: SandboxContext,
  uploads: UploadStore,
  workerId: string,
): Promise<Recovered> {
  return await recoverEach(context, { uploads, workerId, asleep: [], keepsOthers: true });
}

interface Loss {
  readonly uploads: UploadStore;
  readonly workerId: string;
  /** Hibernated sandboxes whose only snapshot the worker has. */
  readonly asleep: readonly SandboxId[];
  /** Sandboxes of which nothing is stored stay as they are. */
  readonly keepsOthers: boolean;
}

async function recoverEach(context: SandboxContext, loss: Loss): Promise<Recovered> {
  const { workerId, asleep } = loss;
  const { sandboxes } = context.stores;
  const held = (await sandboxes.listHeldBy(workerId)).map(({ id }) => id);
  let [recovered, lost] = [0, 0];
  for (const id of new Set([...held, ...asleep])) {
    await context.operations.gates.run(id, async () => {
      const sandbox = await sandboxes.find(id);
      if (sandbox === undefined || (sandbox.workerId !== workerId && !asleep.includes(id))) return;
      const outcome = await recover(context, loss, sandbox);
      if (outcome === "recovered") recovered += 1;
      if (outcome === "lost") lost += 1;
    });
  }
  return { recovered, lost };
}

async function recover(
  context: SandboxContext,
  loss: Loss,
  sandbox: Sandbox,
): Promise<"recovered" | "lost" | "removed" | "kept"> {
  const { uploads, workerId, keepsOthers } = loss;
  const { sandboxes } = context.stores;
  const { id, state } = sandbox;
  const endedAt = new Date(context.clock.now());
  switch (state) {
    case "creating":
      context.activity.forget(id);
      await sandboxes.remove(id);
      return "removed";
    case "stopping":
    case "stopped":
      await sandboxes.move(sandbox, "stopped", { workerId: "", endedAt, endReason: "it was deleted" });
      return "removed";
    case "waking": {
      // Its snapshot was complete before the wake, so any copy of it can be used.
      const isStored = await isElsewhere(uploads, sandbox, workerId);
      if (!isStored && keepsOthers && (await uploads.lastCheckpoint(id, workerId)) === undefined) return "kept";
      const endReason = `worker ${workerId} was lost while it woke there`;
      const hibernated = await sandboxes.move(sandbox, "failed", { workerId: "", endReason });
      return isStored ? "recovered" : await fromCheckpoint(context, loss, hibernated);
    }
    case "hibernating":
      if (await isElsewhere(uploads, sandbox, workerId)) {
        await sandboxes.move(sandbox, "stored", { workerId: "", expiresAt: undefined });
        return "recovered";
      }
      return await fromCheckpoint(context, loss, sandbox);
    case "running":
    case "restarting":
    case "hibernated":
    case "error":
      return await fromCheckpoint(context, loss, sandbox);
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
  { stores, clock, log, activity }: SandboxContext,
  { uploads, workerId, keepsOthers }: Loss,
  sandbox: Sandbox,
): Promise<"recovered" | "lost" | "kept"> {
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
    if (keepsOthers) return "kept";
    activity.forget(id);
    const endReason = `worker ${workerId} was lost, and no state of the sandbox is stored elsewhere`;
    await stores.sandboxes.move(sandbox, "lost", { ...left, hibernationSnapshotId: undefined, endReason });
    log("warn", "a sandbox is lost with its worker", { sandbox: id, worker: workerId });
    return "lost";
  }
  activity.forget(id);
  const { name, snapshotId, createdAt } = last;
  const recoveredFrom = `worker ${workerId} was lost: this is checkpoint ${name} of ${createdAt.toISOString()}`;
  await stores.sandboxes.move(sandbox, "recovered", {
    ...left,
    ...{ hibernationSnapshotId: snapshotId, recoveredFrom, endReason: recoveredFrom },
  });
  log("info", "a sandbox of a lost worker continues from a checkpoint", { sandbox: id, worker: workerId, name });
  return "recovered";
}
