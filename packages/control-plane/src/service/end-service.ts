import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { putAway } from "./sweep-sandboxes.ts";

/**
 * What becomes of the sandboxes when the service ends.
 * - `hibernate`: they are hibernated, and wake when they are used again; those that are ephemeral are deleted.
 * - `stop`: they are deleted.
 * - `leave`: their machines go on, and the next server takes them over.
 */
export type AtEnd = "hibernate" | "stop" | "leave";

/**
 * Sees to every sandbox of this process, all at the same time; what is on its way in the background is waited for until
 * `cutOff` is aborted. What cannot be put away stays as it is, for the next server to take over.
 */
export async function endService(context: SandboxContext, atEnd: AtEnd): Promise<void> {
  const { worker, log } = context;
  const held = atEnd === "leave" ? [] : (await context.store.listHeld()).filter((row) => row.workerId === worker.id);
  const results = await Promise.allSettled(
    held.map(({ id }) =>
      context.operations.gates.run(id, async () => {
        // Read again: what went through the gate before may have changed it.
        const sandbox = await context.store.find(id);
        if (sandbox === undefined || sandbox.workerId !== worker.id) return;
        await end(context, sandbox, atEnd);
      }),
    ),
  );
  await context.operations.background.idle();
  const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
  for (const error of errors) log("error", "a sandbox could not be put away", describeError(error));
  if (atEnd !== "stop") await worker.release();
  else if (errors.length > 0) throw new AggregateError(errors, "not every sandbox could be stopped");
}

const reason = "the server was ended";

async function end(context: SandboxContext, sandbox: Sandbox, atEnd: AtEnd): Promise<void> {
  if (atEnd === "stop" || sandbox.ephemeral) return endSandbox(context, sandbox, reason);
  if (sandbox.state === "running") return putAway(context, sandbox, reason);
  // The disks of a sandbox whose machine has ended stay.
  if (sandbox.state === "error") return;
  throw new SandboxError("internal", `sandbox ${sandbox.id} is still ${sandbox.state}`);
}
