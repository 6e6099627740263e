import type { Exec } from "@opensandbox/wire/worker/sessions.ts";
import { type PrivateCommand, startPrivateCommand } from "#execs/private-command.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { Patch } from "./checkpoint.ts";

// Of one patch.
const patchTimeoutMs = 300_000;
// Of the output of a patch that failed, its end is kept.
const keptCharacters = 2000;

/**
 * Runs the patches that the checkpoint of a fork has got since the fork was patched last, in order, until one fails.
 * The row knows after each how far it got. The gate must be held, so that nothing else runs before they have.
 */
export async function applyPatches(context: SandboxContext, sandbox: Sandbox, signal: AbortSignal): Promise<Sandbox> {
  if (sandbox.fromCheckpointId === undefined) return sandbox;
  const { patches, store } = context;
  let patched = sandbox;
  for (const patch of await patches.list(sandbox.fromCheckpointId, sandbox.lastPatchSequence)) {
    const failure = await run(context, sandbox, patch, signal);
    if (failure !== undefined) {
      context.log("warn", "a patch failed", { sandbox: sandbox.id, patch: patch.id, failure });
      return store.update(sandbox.id, { patchError: `patch ${patch.sequence} ${failure}` });
    }
    patched = await store.update(sandbox.id, { lastPatchSequence: patch.sequence, patchError: undefined });
  }
  return patched;
}

/** Why it failed, if it did. */
async function run(
  { worker }: SandboxContext,
  { id }: Sandbox,
  { script }: Patch,
  signal: AbortSignal,
): Promise<string | undefined> {
  const command: Exec = { argv: ["bash", "-c", script], timeoutMs: patchTimeoutMs };
  try {
    const running = await startPrivateCommand(worker.guest(id).sessions, command, signal);
    const output = await endOfOutput(running);
    const { exitCode, signal: killedBy, timedOut } = (await running.result).end;
    if (timedOut) return `took longer than ${patchTimeoutMs / 1000} seconds: ${output}`;
    if (killedBy !== 0) return `was ended by signal ${killedBy}: ${output}`;
    return exitCode === 0 ? undefined : `exited with ${exitCode}: ${output}`;
  } catch (error) {
    return `could not be run: ${error instanceof Error ? error.message : String(error)}`;
  }
}

async function endOfOutput({ output }: PrivateCommand): Promise<string> {
  let kept = Buffer.alloc(0);
  for await (const part of output) {
    if (part !== "scrollback end") kept = Buffer.concat([kept, part.bytes]).subarray(-4 * keptCharacters);
  }
  return kept.toString("utf8").trim().slice(-keptCharacters);
}
