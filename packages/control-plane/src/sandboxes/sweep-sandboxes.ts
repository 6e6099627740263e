import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { describeError } from "../log.ts";
import { abandon, endSandbox } from "./delete-sandbox.ts";
import type { SandboxContext } from "./sandbox-context.ts";

/** Ends what has been idle for too long and records what ended with another worker. Never rejects. */
export async function sweepSandboxes(context: SandboxContext): Promise<void> {
  await Promise.all([
    ...context.activity.sweep().map((id) => reported(context, id, () => expire(context, id))),
    recordAbandoned(context).catch((error: unknown) => {
      context.log("error", "the rows of ended workers could not be brought up to date", describeError(error));
    }),
  ]);
}

/** Rows of workers that do not live any more say so. */
export async function recordAbandoned(context: SandboxContext): Promise<void> {
  const active = await context.store.listActive();
  const gone = active.filter(({ workerId }) => workerId !== context.worker.id && !context.isWorkerAlive(workerId));
  await Promise.all(gone.map((sandbox) => reported(context, sandbox.id, () => abandon(context, sandbox))));
}

async function expire(context: SandboxContext, id: SandboxId): Promise<void> {
  await context.gates.run(id, async () => {
    // It may have been used while this waited.
    if (!context.activity.isExpired(id)) return;
    const sandbox = await context.store.find(id);
    if (sandbox === undefined) return context.activity.forget(id);
    await endSandbox(context, sandbox, `it was idle for ${sandbox.idleTimeoutSeconds} seconds`);
  });
}

async function reported(context: SandboxContext, sandbox: SandboxId, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    context.log("error", "a sandbox could not be ended", { sandbox, ...describeError(error) });
  }
}
