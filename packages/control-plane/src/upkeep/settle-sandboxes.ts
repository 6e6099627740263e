import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { AdoptedSandbox } from "@opensandbox/wire/worker/worker.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { settlementOf, type Settlement } from "./settlement.ts";
import { watchMachine } from "#lifecycle/watch-machine.ts";

/**
 * Makes the rows of ended server processes true: takes over what the worker has adopted, and says of the rest what has
 * become of it. Done once, before the first request. What cannot be settled is logged, and stays for the next start.
 */
export async function settleSandboxes(context: SandboxContext): Promise<void> {
  const adopted = new Map(context.worker.adopted.map((entry) => [entry.id, entry]));
  const held = (await context.store.listHeld()).filter(
    ({ state, workerId }) => !isElsewhere(context, workerId) && !(state === "error" && workerId === ""),
  );
  // Who lives for one command takes nobody over, so that of the others it cannot know.
  const left = context.ephemeral ? held.filter(({ ephemeral, hidden }) => ephemeral || hidden) : held;
  const ids = new Set([...adopted.keys(), ...left.map(({ id }) => id)]);
  await Promise.all([...ids].map((id) => settle(context, id, adopted.get(id))));
}

function isElsewhere(context: SandboxContext, workerId: string): boolean {
  return workerId !== "" && workerId !== context.worker.id && context.isWorkerAlive(workerId);
}

async function settle(context: SandboxContext, id: SandboxId, adopted: AdoptedSandbox | undefined): Promise<void> {
  try {
    const sandbox = await context.store.find(id);
    const settlement = settlementOf({
      ...(sandbox === undefined ? {} : { row: { ...sandbox, elsewhere: isElsewhere(context, sandbox.workerId) } }),
      ...(adopted === undefined ? {} : { adopted }),
      snapshot: (await findSnapshot(context, sandbox)) !== undefined,
    });
    if (settlement === "leave") return;
    context.log("info", "sandbox of an ended server", { sandbox: id, state: sandbox?.state, settlement });
    if (sandbox === undefined) await cleanUp(context, id, settlement);
    else await carryOut(context, { sandbox, adopted, settlement });
  } catch (error) {
    context.log("error", "a sandbox of an ended server could not be settled", { sandbox: id, ...describeError(error) });
  }
}

/** The snapshot of its hibernation. One that is damaged is there too: the wake says so. */
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

async function cleanUp({ worker }: SandboxContext, id: SandboxId, settlement: Settlement): Promise<void> {
  if (settlement === "clean") await worker.stopSandbox(id);
}

const serverEnded = "the server that ran it has ended, and its machine with it";

interface Settling {
  readonly sandbox: Sandbox;
  readonly adopted: AdoptedSandbox | undefined;
  readonly settlement: Settlement;
}

async function carryOut(context: SandboxContext, { sandbox, adopted, settlement }: Settling): Promise<void> {
  const { worker, store, clock } = context;
  const { id } = sandbox;
  const ended = { endedAt: new Date(clock.now()) };
  const ours = oursOf(context, sandbox, adopted);
  switch (settlement) {
    case "leave":
      return;
    case "clean":
      return worker.stopSandbox(id);
    case "run":
      if (adopted !== undefined) await takeOver(context, sandbox, adopted);
      return;
    case "boot on use": {
      const endReason = "its machine ended while no server ran: the next call boots its disks";
      await store.move(sandbox, "lost", {
        ...ours,
        ...ended,
        endReason,
        bootsOnUse: true,
        hibernationSnapshotId: undefined,
      });
      return;
    }
    case "keep disks":
      await store.update(id, ours);
      return;
    case "hibernated": {
      // Remainders of a wake or a hibernation that was interrupted.
      await worker.stopSandbox(id);
      const { sizeBytes } = (await findSnapshot(context, sandbox)) ?? {};
      const move = sandbox.state === "waking" ? "failed" : "stored";
      await store.move(sandbox, move, {
        workerId: "",
        expiresAt: undefined,
        ...(sizeBytes === undefined ? {} : { hibernationSizeBytes: sizeBytes }),
      });
      return;
    }
    case "lost": {
      const isKnown = sandbox.state === "restarting" || (sandbox.state === "error" && !sandbox.bootsOnUse);
      await store.move(sandbox, "lost", {
        ...ended,
        workerId: "",
        endReason: isKnown ? sandbox.endReason : serverEnded,
        bootsOnUse: false,
        hibernationSnapshotId: undefined,
      });
      return;
    }
    case "undo":
      await worker.stopSandbox(id);
      await store.remove(id);
      return;
    case "stop":
      await endSandbox(
        context,
        { ...sandbox, workerId: worker.id },
        sandbox.ephemeral ? serverEnded : "it was deleted",
      );
  }
}

/** Its machine runs: so does it, and its idle time goes on from where it was. */
async function takeOver(context: SandboxContext, sandbox: Sandbox, adopted: AdoptedSandbox): Promise<void> {
  const { store, activity } = context;
  // The old machine of a restart that did not come to its end: the row goes on telling of that.
  const interrupted = sandbox.state === "restarting" && adopted.generation < sandbox.generation;
  const expiresAt = sandbox.expiresAt ?? activity.expiresAt(sandbox.idleTimeoutSeconds);
  const running = await store.move(sandbox, "adopted", {
    ...oursOf(context, sandbox, adopted),
    expiresAt,
    endedAt: undefined,
    endReason: interrupted ? sandbox.endReason : undefined,
    bootsOnUse: false,
    hibernationSnapshotId: undefined,
    hibernationSizeBytes: undefined,
  });
  activity.resume(sandbox.id, sandbox.idleTimeoutSeconds, expiresAt);
  watchMachine(context, running);
}

function oursOf({ worker }: SandboxContext, { generation }: Sandbox, adopted: AdoptedSandbox | undefined) {
  return {
    workerId: worker.id,
    generation: Math.max(generation, adopted?.generation ?? 0),
    ...(adopted === undefined ? {} : { memoryMib: adopted.memoryMib }),
  };
}
