import type { SandboxEnd } from "@opensandbox/wire/worker/worker.ts";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** Records in the row when the machine of a running sandbox ends by itself. */
export function watchMachine(context: SandboxContext, sandbox: Sandbox): void {
  const { watches } = context.operations;
  // A server that takes over work of another one reconciles sandboxes that it watches already.
  const key = `${sandbox.id} ${sandbox.generation}`;
  if (context.servers.id !== undefined && watches.has(key)) return;
  watches.add(key);
  ended(context, sandbox)
    .then(async (end) => {
      if (end.reason !== "stopped")
        await context.operations.gates.run(sandbox.id, () => markEnded(context, sandbox, end));
    })
    .catch((error: unknown) => {
      // The worker has left the fleet or has another address, where its sandboxes are watched again.
      if (context.shutdown.ending.aborted || isSandboxError(error, "canceled")) return;
      context.log("error", "cannot record the end of a machine", {
        sandbox: sandbox.id,
        ...describeError(error),
      });
    })
    .finally(() => watches.delete(key));
}

async function ended({ worker, shutdown: { ending } }: SandboxContext, { id }: Sandbox): Promise<SandboxEnd> {
  return await worker.waitForEnd(id, ending);
}

/**
 * The worker keeps the disks, which can be booted again. After a reset by the guest itself, the next call boots them,
 * and not this function: a kernel that panics at every boot must not loop.
 */
async function markEnded(context: SandboxContext, watched: Sandbox, { reason, detail }: SandboxEnd): Promise<void> {
  // The shutdown puts its sandboxes away itself and then closes the database.
  if (context.shutdown.ending.aborted) return;
  const sandbox = await context.stores.sandboxes.find(watched.id);
  if (sandbox?.state !== "running" || sandbox.generation !== watched.generation) return;
  context.activity.forget(sandbox.id);
  const bootsOnUse = reason === "reset" && !sandbox.ephemeral;
  const endReason = `the machine ended: ${detail}${bootsOnUse ? ": the next call boots its disks" : ""}`;
  await context.stores.sandboxes.move(sandbox, "crashed", {
    endedAt: new Date(context.clock.now()),
    endReason,
    bootsOnUse,
  });
  context.log("warn", "a machine ended by itself", { sandbox: sandbox.id, detail });
}
