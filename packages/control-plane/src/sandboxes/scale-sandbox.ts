import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Scaled } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { takeSandbox } from "./take-sandbox.ts";
import { useSandbox } from "./use-sandbox.ts";
import { withoutAutoscale } from "./sandbox.ts";

/** Gives a sandbox more memory, or takes some back, while it runs; one that sleeps is woken. Ends autoscale. */
export async function scaleSandbox(
  context: SandboxContext,
  request: { readonly organizationId: string; readonly id: SandboxId; readonly memoryMib: number },
  signal: AbortSignal,
): Promise<Scaled> {
  const { memoryMib, ...named } = request;
  using _ = await useSandbox(context, named.organizationId, named.id, signal);
  const refusal = new SandboxError("invalid_argument", "sandbox is not running", undefined);
  return await takeSandbox(context, { ...named, refusal }, async (sandbox) => {
    // What has begun is finished, whoever goes away meanwhile.
    const scaled = await context.worker.scaleSandbox(sandbox.id, memoryMib, context.cutOff);
    if (scaled.done) await context.store.update(sandbox.id, { memoryMib, ...withoutAutoscale(sandbox) });
    return scaled;
  });
}
