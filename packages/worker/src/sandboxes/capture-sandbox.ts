import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Capture, CapturedSnapshot } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import { captureMachine, resumeAfterCapture, type MachineCapture } from "#machine/capture-machine.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { tenantOf } from "#machine/host-resources.ts";
import { journal } from "./start-sandbox.ts";
import { manifestOf } from "#templates/templates.ts";

/** A snapshot of a sandbox that goes on. */
export async function captureSandbox(
  { request, live }: LiveSandbox,
  { snapshotId, contents }: Capture,
  host: Host,
  signal: AbortSignal,
): Promise<CapturedSnapshot> {
  await using unfinished = await host.snapshots.begin(snapshotId, host.workerId);
  const { directory } = unfinished;
  const wanted = { directory, contents, afterwards: "go on", tenant: tenantOf(request.organizationId) } as const;
  const capture = await captureMachine(live, wanted, host, signal).catch(async (error: unknown) => {
    await journalFailure({ request, live }, host);
    throw error;
  });
  await failpoint("journal layers");
  await journal(live, request, host);
  const { files, memory, ownBytes, pausedMs } = capture;
  await unfinished.publish({
    ...manifestOf(snapshotId, live, { image: live.image, shape: live.shape }, host),
    files,
    ...(memory === undefined ? {} : { memory }),
    ownBytes,
  });
  return { sizeBytes: ownBytes, pausedMs };
}

/** A snapshot in place of the machine, which has ended when this resolves. */
export async function hibernateSandbox(
  sandbox: LiveSandbox,
  snapshotId: SnapshotId,
  host: Host,
  signal: AbortSignal,
): Promise<CapturedSnapshot> {
  const { request, live } = sandbox;
  await journal(live, request, host, snapshotId);
  let capture: MachineCapture;
  {
    await using unfinished = await host.snapshots.begin(snapshotId, host.workerId);
    const { directory } = unfinished;
    const tenant = tenantOf(request.organizationId);
    capture = await captureMachine(
      live,
      { directory, contents: "memory and disks", afterwards: "stay", tenant },
      host,
      signal,
    ).catch(async (error: unknown) => {
      await journalFailure(sandbox, host);
      throw error;
    });
    const { files, memory, ownBytes } = capture;
    try {
      await unfinished.publish({
        ...manifestOf(snapshotId, live, { image: live.image, shape: live.shape }, host),
        files,
        ...(memory === undefined ? {} : { memory }),
        ownBytes,
      });
    } catch (error) {
      await resumeAfterCapture(live);
      await journalFailure(sandbox, host);
      throw error;
    }
  }
  // From here on the snapshot is the sandbox, whatever becomes of the machine.
  await failpoint("end machine");
  await live[Symbol.asyncDispose]().catch((error: unknown) => {
    host.log("error", "the machine of a hibernated sandbox could not be removed", {
      sandbox: request.id,
      ...describeError(error),
    });
  });
  return { sizeBytes: capture.ownBytes, pausedMs: capture.pausedMs };
}

/**
 * The machine is the sandbox after all, perhaps with another layer on its disks. Where that cannot be written down the
 * next worker asks the machine itself.
 */
async function journalFailure({ request, live }: Pick<LiveSandbox, "request" | "live">, host: Host): Promise<void> {
  if (!live.hasProcess) return;
  await journal(live, request, host).catch((error: unknown) => {
    host.log("warn", "a machine could not be written down", { sandbox: request.id, ...describeError(error) });
  });
}
