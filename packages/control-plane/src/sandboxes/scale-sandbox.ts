import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { ScaleOutcome } from "@opensandbox/wire/public/sandboxes/scaling.ts";
import type { SandboxSize, Scaled } from "@opensandbox/wire/worker/worker.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { type Sandbox, withoutAutoscale } from "./sandbox.ts";
import { takeSandbox } from "#lifecycle/take-sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";

/** Changes the memory and limits of a running sandbox; a hibernated one is woken. Disables autoscale. */
export async function scaleSandbox(
  context: SandboxContext,
  request: { readonly organizationId: string; readonly id: SandboxId; readonly size: SandboxSize },
  signal: AbortSignal,
): Promise<ScaleOutcome> {
  const { size, ...named } = request;
  const { memoryMib } = size;
  const { stores } = context;
  const asked = await stores.sandboxes.get(named.organizationId, named.id);
  if (asked.scalingLocked) return { kind: "locked" };
  using _ = await useSandbox(context, named.organizationId, named.id, signal);
  const refusal = new SandboxError("invalid_argument", "sandbox is not running");
  return await takeSandbox(context, { ...named, refusal }, async (sandbox) => {
    const scaled = await resizeSandbox(context, sandbox, size);
    if (!scaled.done) return { kind: "floor", memoryMib, because: scaled.because ?? "" };
    const { cpuPercent = sandbox.cpuPercent, maxPids = sandbox.maxPids } = size;
    const changes = { memoryMib, cpuPercent, maxPids };
    await stores.sandboxes.update(sandbox.id, withoutAutoscale(sandbox));
    return { kind: "scaled", sandbox: { ...sandbox, ...changes }, autoscaleEnded: sandbox.autoscale?.enabled === true };
  });
}

/** Gives a running sandbox another size. Its gate must be held. A size below what its commands need changes nothing. */
export async function resizeSandbox(context: SandboxContext, sandbox: Sandbox, size: SandboxSize): Promise<Scaled> {
  const { stores, worker, shutdown } = context;
  const { memoryMib, cpuPercent = sandbox.cpuPercent, maxPids = sandbox.maxPids } = size;
  // New memory counts before the machine has it, so that concurrent calls cannot exceed a limit together.
  if (memoryMib > sandbox.memoryMib) {
    await stores.sandboxes.grow(sandbox, memoryMib, await limitsOf(context, sandbox.organizationId));
  }
  let scaled: Scaled;
  try {
    // A change that has begun completes even when its caller disconnects.
    scaled = await worker.scaleSandbox(sandbox.id, size, shutdown.cutOff);
  } catch (error) {
    await stores.sandboxes.update(sandbox.id, { memoryMib: sandbox.memoryMib });
    throw error;
  }
  const changes = scaled.done ? { memoryMib, cpuPercent, maxPids } : { memoryMib: sandbox.memoryMib };
  await stores.sandboxes.update(sandbox.id, changes);
  return scaled;
}
