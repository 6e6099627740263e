import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** The refusal for a sandbox that belongs to another server process. */
export function elsewhere(
  context: Pick<SandboxContext, "isWorkerAlive">,
  { id, workerId }: Sandbox,
): SandboxError<"unavailable"> {
  const message = context.isWorkerAlive(workerId)
    ? `sandbox ${id} runs under another server process (${workerId}): call that server`
    : `sandbox ${id} belongs to a server process that has exited (${workerId}): the next server to start adopts it`;
  return new SandboxError("unavailable", message);
}
