import { limitsOf } from "./limits-of.ts";
import { markRunning } from "./start-on-worker.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/**
 * Boots the disks of a sandbox that runs, or whose machine ended by itself. Its gate must be held. Returns when the
 * sandbox accepts commands. When the boot fails, the sandbox becomes `error` and keeps its disks.
 */
export async function restartMachine(
  context: SandboxContext,
  sandbox: Sandbox,
  how: "rebooted" | "power-cycled",
): Promise<Sandbox> {
  const { stores, worker, placement, activity, clock, log } = context;
  const { cutOff } = context.shutdown;
  const restarting = await stores.sandboxes.move(
    sandbox,
    "restart",
    {
      generation: sandbox.generation + 1,
      workerId: placement.holderOf(sandbox) ?? sandbox.workerId,
      endReason: `it was being ${how} when the server exited`,
    },
    // A running sandbox counts already.
    sandbox.state === "running" ? {} : { limits: await limitsOf(context, sandbox.organizationId) },
  );
  activity.forget(sandbox.id);
  try {
    // A restart that has begun completes even when its caller disconnects.
    await (how === "rebooted"
      ? worker.rebootSandbox(sandbox.id, cutOff)
      : worker.powerCycleSandbox(sandbox.id, cutOff));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const endReason = `it could not be ${how}: ${why}`;
    await stores.sandboxes.move(restarting, "failed", { endedAt: new Date(clock.now()), endReason });
    throw error;
  }
  log("info", `sandbox ${how}`, { sandbox: sandbox.id });
  return markRunning(context, restarting, { restoredFrom: "disk", restoredBecause: `it was ${how}` });
}
