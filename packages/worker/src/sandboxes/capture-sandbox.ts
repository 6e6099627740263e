import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Capture, CapturedSnapshot } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import { runHooks } from "#guest/guest-hooks.ts";
import type { Host } from "#machine/host.ts";
import { tenantGroupOf, tenantOf } from "#machine/host-resources.ts";
import { journalMachine } from "#machine/journal.ts";
import { type SnapshotRequest, storeSnapshot } from "#machine/store-snapshot.ts";
import type { LiveSandbox } from "./live-sandbox.ts";

/** Stores a snapshot of a sandbox, which keeps running. */
export async function captureSandbox(
  sandbox: LiveSandbox,
  { snapshotId, contents }: Capture,
  host: Host,
  signal: AbortSignal,
): Promise<CapturedSnapshot> {
  const request = {
    ...{ id: snapshotId, contents, afterwards: "resumed" },
    beforePublish: async (capture) => {
      await failpoint("journal layers");
      await journalMachine(sandbox.live, sandbox.request, host);
      return capture;
    },
  } satisfies Partial<SnapshotRequest>;
  return await store(sandbox, request, host, signal);
}

/** Stores a snapshot in place of the sandbox's machine, which has ended when this resolves. */
export async function hibernateSandbox(
  sandbox: LiveSandbox,
  snapshotId: SnapshotId,
  host: Host,
  signal: AbortSignal,
): Promise<CapturedSnapshot> {
  const { live } = sandbox;
  await runHooks(live.guest, "before-hibernate", signal).catch((error: unknown) => {
    signal.throwIfAborted();
    const message = "the guest did not confirm its hooks before a hibernation, which goes on";
    host.log("warn", message, { sandbox: sandbox.request.id, ...describeError(error) });
  });
  // The end of a merge writes the journal entry too, and its entry does not name the snapshot.
  await live.merging.stop();
  await journalMachine(live, sandbox.request, host, snapshotId);
  const request = { id: snapshotId, contents: "memory and disks", afterwards: "paused" } as const;
  const captured = await store(sandbox, request, host, signal);
  // From here on the snapshot is the sandbox, whether or not the machine can be removed.
  await failpoint("end machine");
  await live[Symbol.asyncDispose]().catch((error: unknown) => {
    const message = "cannot remove the machine of a hibernated sandbox; the next worker removes it";
    host.log("error", message, { sandbox: sandbox.request.id, ...describeError(error) });
  });
  return captured;
}

/** After a failure the machine, perhaps with another layer on its disks, still is the sandbox: the journal says so. */
async function store(
  sandbox: LiveSandbox,
  request: Omit<SnapshotRequest, "tenant">,
  host: Host,
  signal: AbortSignal,
): Promise<CapturedSnapshot> {
  const { live } = sandbox;
  const tenant = tenantOf(tenantGroupOf(sandbox.request));
  try {
    const { snapshot, pausedMs } = await storeSnapshot(live, host.snapshots, { ...request, tenant }, host, signal);
    return { sizeBytes: snapshot.manifest.ownBytes, pausedMs };
  } catch (error) {
    if (live.hasProcess) {
      // Without this entry the next worker asks the machine's process for its layers.
      await journalMachine(live, sandbox.request, host).catch((cause: unknown) => {
        const message = "cannot update the journal after a failed capture";
        host.log("warn", message, { sandbox: sandbox.request.id, ...describeError(cause) });
      });
    }
    throw error;
  }
}
