import type { Progress, Span, StartedSandbox, StartFrom } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import { sealedEnvironment } from "#secrets/sandbox-secrets.ts";
import type { Changes } from "#sandboxes/sandbox-store.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { watchMachine } from "./watch-machine.ts";

/** A sandbox whose machine has just started. */
export interface Started {
  readonly sandbox: Sandbox;
  /** Milliseconds of each part of the start. */
  readonly spans: readonly Span[];
}

/** Starts a machine on the worker with the shape, environment and network policy in the row. */
export async function startOnWorker(
  { worker, stores, secrets }: SandboxContext,
  sandbox: Sandbox,
  from: StartFrom,
  signal: AbortSignal,
  onProgress: (progress: Progress) => void = () => {},
): Promise<StartedSandbox> {
  const { id, generation, organizationId, vcpus, memoryMib, workspaceMib, envs, networkEnabled, egress } = sandbox;
  const { cpuPercent, maxPids } = sandbox;
  const shape = { vcpus, memoryMib, workspaceMib, cpuPercent, maxPids };
  const organizationNumber = await stores.organizationNumbers.of(organizationId);
  const used = await secrets.of(sandbox);
  return await worker.startSandbox(
    {
      ...{ id, generation, organizationId, organizationNumber, from, ...shape, networkEnabled, egress },
      // Variables that the caller gave take precedence.
      envs: { ...sealedEnvironment(used), ...envs },
      secrets: used,
    },
    onProgress,
    signal,
  );
}

/** Records that the machine runs, starts the idle timeout and watches for the machine's end. */
export async function markRunning(
  context: SandboxContext,
  sandbox: Sandbox,
  started: Pick<StartedSandbox, "restoredFrom" | "restoredBecause">,
  changes: Changes = {},
): Promise<Sandbox> {
  const { activity, stores, clock } = context;
  const idleTimeoutSeconds = changes.idleTimeoutSeconds ?? sandbox.idleTimeoutSeconds;
  activity.watch(sandbox.id, idleTimeoutSeconds);
  const running = await stores.sandboxes.move(sandbox, "started", {
    startedAt: new Date(clock.now()),
    expiresAt: activity.expiresAt(idleTimeoutSeconds),
    endedAt: undefined,
    endReason: undefined,
    bootsOnUse: false,
    restoredFrom: started.restoredFrom,
    restoredBecause: started.restoredBecause,
    ...changes,
  });
  watchMachine(context, running);
  return running;
}
