import { markRunning } from "./start-on-worker.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/**
 * Boots the disks of a sandbox that runs or whose machine has ended by itself; its gate must be held. Returns when a
 * command would work. If it fails the sandbox is an error, and its disks stay.
 */
export async function restartMachine(
  context: SandboxContext,
  sandbox: Sandbox,
  how: "rebooted" | "power-cycled",
): Promise<Sandbox> {
  const {
    store,
    worker,
    activity,
    clock,
    log,
    cutOff,
    settings: { maxSandboxes },
  } = context;
  // A running one is active already and takes nobody's place.
  const limit = sandbox.state === "running" ? undefined : maxSandboxes;
  const restarting = await store.move(
    sandbox,
    "restart",
    { generation: sandbox.generation + 1, workerId: worker.id, endReason: `it was being ${how} when the server ended` },
    limit,
  );
  activity.forget(sandbox.id);
  try {
    // What has begun is finished, whoever goes away meanwhile.
    await (how === "rebooted"
      ? worker.rebootSandbox(sandbox.id, cutOff)
      : worker.powerCycleSandbox(sandbox.id, cutOff));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const endReason = `it could not be ${how}: ${why}`;
    await store.move(restarting, "failed", { endedAt: new Date(clock.now()), endReason });
    throw error;
  }
  log("info", `sandbox ${how}`, { sandbox: sandbox.id });
  return markRunning(context, restarting, { restoredFrom: "disk", restoredBecause: `it was ${how}` });
}
