import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Capture, CapturedSnapshot } from "@opensandbox/wire/worker/worker.ts";
import { captureMachine, goOnAfterCapture, type MachineCapture } from "./capture-machine.ts";
import { describeError } from "./describe-error.ts";
import type { Host } from "./host.ts";
import { writeEntry } from "./journal.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { tenantOf } from "./seat.ts";
import { manifestOf } from "./templates.ts";

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
  const capture = await captureMachine(live, wanted, host, signal);
  await journalLayers({ request, live }, host);
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
  const entry = () => ({
    ...{ machineId: live.id, workerId: host.workerId, ephemeral: host.ephemeral },
    ...{ sandbox: request, machine: live.journaled() },
  });
  await writeEntry(host.dataDirectory, { ...entry(), hibernating: snapshotId });
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
      await writeEntry(host.dataDirectory, entry());
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
      await goOnAfterCapture(live);
      await writeEntry(host.dataDirectory, entry());
      throw error;
    }
  }
  // From here on the snapshot is the sandbox, whatever becomes of the machine.
  await sandbox[Symbol.asyncDispose]().catch((error: unknown) => {
    host.log("error", "the machine of a hibernated sandbox could not be removed", {
      sandbox: request.id,
      ...describeError(error),
    });
  });
  return { sizeBytes: capture.ownBytes, pausedMs: capture.pausedMs };
}

/** The disks have a layer more than the journal knows. */
async function journalLayers({ request, live }: Pick<LiveSandbox, "request" | "live">, host: Host): Promise<void> {
  const { workerId, ephemeral, dataDirectory } = host;
  const entry = { machineId: live.id, workerId, ephemeral, sandbox: request, machine: live.journaled() };
  await writeEntry(dataDirectory, entry);
}
