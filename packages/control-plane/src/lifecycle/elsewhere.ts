import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** The sandbox is in the hands of another server process. */
export function elsewhere(
  context: Pick<SandboxContext, "isWorkerAlive">,
  { id, workerId }: Sandbox,
): SandboxError<"unavailable"> {
  const message = context.isWorkerAlive(workerId)
    ? `sandbox ${id} runs under another server process (${workerId}): ask that one`
    : `sandbox ${id} was left by a server process that has ended (${workerId}): the next one to start takes it over`;
  return new SandboxError("unavailable", message);
}
