import type { Exec } from "@opensandbox/wire/worker/sessions.ts";
import { type PrivateCommand, startPrivateCommand } from "#execs/private-command.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { Patch } from "./checkpoint.ts";

// The time limit of one patch.
const patchTimeoutMs = 300_000;
// A guest that does not report the end of a patch after its timeout has failed, and the sandbox's gate must open again.
const reportWithinMs = 30_000;
// A failed patch is reported with the end of its output.
const keptCharacters = 2000;

/**
 * Runs the patches that the checkpoint of a fork has gained since the fork was last patched, in order, until one fails.
 * The row records progress after each patch. The gate must be held, so that nothing else runs before the patches have.
 */
export async function applyPatches(context: SandboxContext, sandbox: Sandbox, signal: AbortSignal): Promise<Sandbox> {
  if (sandbox.fromCheckpointId === undefined) return sandbox;
  const { stores } = context;
  let patched = sandbox;
  for (const patch of await duePatches(context, sandbox, sandbox.fromCheckpointId)) {
    const failure = await run(context, sandbox, patch, signal);
    if (failure !== undefined) {
      context.log("warn", "a patch failed", { sandbox: sandbox.id, patch: patch.id, failure });
      return stores.sandboxes.update(sandbox.id, { patchError: `patch ${patch.sequence} ${failure}` });
    }
    patched = await stores.sandboxes.update(sandbox.id, { lastPatchSequence: patch.sequence, patchError: undefined });
  }
  return patched;
}

/**
 * Another organization's checkpoint is trusted as it was when it was forked: its owner must not gain a way to run
 * commands in sandboxes of others later.
 */
async function duePatches({ stores }: SandboxContext, sandbox: Sandbox, checkpointId: string): Promise<Patch[]> {
  const due = await stores.patches.list(checkpointId, sandbox.lastPatchSequence);
  if (due.length === 0) return due;
  const isOwn = (await stores.checkpoints.find(checkpointId))?.organizationId === sandbox.organizationId;
  return isOwn ? due : due.filter(({ createdAt }) => createdAt <= sandbox.createdAt);
}

/** Runs one patch. Returns the reason of its failure, or undefined. */
async function run(
  { worker }: SandboxContext,
  { id }: Sandbox,
  { script }: Patch,
  signal: AbortSignal,
): Promise<string | undefined> {
  const command: Exec = { argv: ["bash", "-c", script], timeoutMs: patchTimeoutMs };
  try {
    const until = AbortSignal.any([signal, AbortSignal.timeout(patchTimeoutMs + reportWithinMs)]);
    const running = await startPrivateCommand(worker.guest(id).sessions, command, until);
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
