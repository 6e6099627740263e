import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { putAway } from "./sweep-sandboxes.ts";

/**
 * The fate of the sandboxes when the service shuts down.
 * - `hibernate`: they are hibernated and wake at their next use; ephemeral ones are deleted.
 * - `stop`: they are deleted.
 * - `leave`: their machines run on, and the next server adopts them.
 */
export type AtEnd = "hibernate" | "stop" | "leave";

/**
 * Hibernates, stops or leaves all sandboxes of this process in parallel, and waits for background work until `cutOff` is
 * aborted. After a failure a sandbox keeps its state, and the next server adopts it.
 */
export async function endService(context: SandboxContext, atEnd: AtEnd): Promise<void> {
  const { placement, log } = context;
  const held =
    atEnd === "leave"
      ? []
      : (await context.stores.sandboxes.listHeld()).filter(({ workerId }) => placement.includes(workerId));
  const results = await Promise.allSettled(
    held.map(({ id }) =>
      context.operations.gates.run(id, async () => {
        // The row is read again, because an earlier operation at the gate may have changed it.
        const sandbox = await context.stores.sandboxes.find(id);
        if (sandbox === undefined || !placement.includes(sandbox.workerId)) return;
        await end(context, sandbox, atEnd);
      }),
    ),
  );
  await context.operations.background.idle();
  const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
  for (const error of errors) log("error", "cannot hibernate or stop a sandbox at shutdown", describeError(error));
  if (atEnd === "stop" && errors.length > 0) throw new AggregateError(errors, "some sandboxes could not be stopped");
}

const reason = "the server was shut down";

async function end(context: SandboxContext, sandbox: Sandbox, atEnd: AtEnd): Promise<void> {
  if (atEnd === "stop" || sandbox.ephemeral)
    return endSandbox(context, sandbox, { reason: "expired", endReason: reason });
  if (sandbox.state === "running") return putAway(context, sandbox, { reason });
  // A sandbox whose machine has ended keeps its disks.
  if (sandbox.state === "error") return;
  throw new SandboxError("internal", `sandbox ${sandbox.id} is still ${sandbox.state}`);
}
