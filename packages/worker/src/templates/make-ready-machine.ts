import type { Host } from "#machine/host.ts";
import { imageHostname } from "#guest/guest-identity.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { writeEntry } from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { Spans } from "#machine/spans.ts";
import { newMachineId, restoreMachine } from "#machine/start-machine.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { holdTemplate, type TemplateRequest } from "./templates.ts";
import { runOnce } from "./warm-up.ts";

/** Restores a machine from a template and leaves it paused, warmed up. Undefined: the template is gone. */
export async function makeReadyMachine(
  template: StoredSnapshot,
  request: TemplateRequest,
  host: Host,
  signal: AbortSignal,
): Promise<LiveMachine | undefined> {
  // Leaves memory for a sandbox that is requested meanwhile.
  using _promised = await host.admission.admit(2 * request.shape.memoryMib);
  using held = await holdTemplate(template, signal);
  if (held === undefined) return undefined;
  const id = newMachineId();
  const { dataDirectory, workerId } = host;
  await writeEntry(dataDirectory, { machineId: id, workerId, ephemeral: true });
  await using undo = new AsyncDisposableStack();
  const machine = undo.use(
    await restoreMachine({ id, ...request, tenantGroup: undefined }, template, host, new Spans(), signal),
  );
  await warm(machine, host, signal);
  undo.move();
  return machine;
}

/**
 * Commands that a first caller is likely to run, found by name as callers do. First runs are slow under emulation, and
 * one of them meets the agent's first garbage collection: after six runs no run is slower than the next.
 */
const warmUps: readonly (readonly [string, ...string[]])[] = [
  ...Array.from({ length: 6 }, () => ["sh", "-c", "true"] as const),
  ["sh", "-c", "! command -v node >/dev/null || node --version"],
  ["sh", "-c", "! command -v python3 >/dev/null || python3 -c ''"],
];

/**
 * Lets a restored machine answer and run a few commands before it waits, so that page faults and the emulator's
 * translation of code happen now. The machine gets its identity and entropy again when it is claimed.
 */
async function warm(live: LiveMachine, host: Host, signal: AbortSignal): Promise<void> {
  await live.vm.resume();
  await introduceGuest(live, { id: live.id, hostname: imageHostname, envs: {}, copied: true }, "restore", host, signal);
  for (const argv of warmUps) await runOnce(live.guest, argv, signal);
  await live.vm.pause();
}
