import { endSandbox } from "./delete-sandbox.ts";
import type { SandboxContext } from "./sandbox-context.ts";

/** Ends every sandbox of this process, at the same time. Tries all before it throws. */
export async function stopAllSandboxes(context: SandboxContext): Promise<void> {
  const active = await context.store.listActive();
  const ours = active.filter(({ workerId }) => workerId === context.worker.id);
  const results = await Promise.allSettled(
    ours.map(({ id }) =>
      context.gates.run(id, async () => {
        // Read again: what went through the gate before may have ended it.
        const sandbox = await context.store.find(id);
        if (sandbox !== undefined) await endSandbox(context, sandbox, "the server was ended");
      }),
    ),
  );
  const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
  if (errors.length > 0) throw new AggregateError(errors, "not every sandbox could be stopped");
}
