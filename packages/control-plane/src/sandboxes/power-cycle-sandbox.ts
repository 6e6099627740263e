import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { markRunning } from "./run-machine.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "./sandbox.ts";
import { takeSandbox } from "./take-sandbox.ts";

/**
 * Boots the sandbox's disks with a new machine, whether it runs or its machine has ended by itself.
 * `invalid_argument` in any other state.
 */
export async function powerCycleSandbox(context: SandboxContext, organizationId: string, id: SandboxId): Promise<void> {
  const refusal = new SandboxError("invalid_argument", "sandbox is not running", undefined);
  await takeSandbox(context, { organizationId, id, refusal, states: ["running", "error"] }, (sandbox) =>
    bootDisks(context, sandbox),
  );
}

/** The same for one whose gate is held. If it fails the sandbox is an error, and its disks stay. */
export async function bootDisks(context: SandboxContext, sandbox: Sandbox): Promise<Sandbox> {
  const { store, worker, activity, clock, maxSandboxes } = context;
  // A running one is active already and takes nobody's place.
  const limit = sandbox.state === "running" ? undefined : maxSandboxes;
  const restarting = await store.move(
    sandbox,
    "restart",
    { generation: sandbox.generation + 1, workerId: worker.id, endReason: "a power-cycle was interrupted" },
    limit,
  );
  activity.forget(sandbox.id);
  try {
    await worker.powerCycleSandbox(sandbox.id, context.cutOff);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    await store.move(restarting, "failed", {
      endedAt: new Date(clock.now()),
      endReason: `it could not be power-cycled: ${why}`,
    });
    throw error;
  }
  context.log("info", "sandbox power-cycled", { sandbox: sandbox.id });
  return markRunning(context, restarting, { restoredFrom: "disk", restoredBecause: "it was power-cycled" });
}
