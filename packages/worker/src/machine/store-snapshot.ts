import { describeError } from "@opensandbox/wire/errors.ts";
import { manifestOf } from "#snapshots/manifest.ts";
import type { SnapshotStore, StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { captureMachine, type CaptureRequest, type MachineCapture, resumeAfterCapture } from "./capture-machine.ts";
import type { Host } from "./host.ts";
import type { LiveMachine } from "./live-machine.ts";

export interface SnapshotRequest extends Omit<CaptureRequest, "directory"> {
  readonly id: string;
  /** Runs between the capture and the publishing; returns what the snapshot holds in place of the capture. */
  readonly beforePublish?: (capture: MachineCapture, directory: string) => Promise<MachineCapture>;
}

/**
 * Captures a machine and publishes the capture in `store`, as the snapshot `request.id`. The snapshot exists when this
 * resolves; after a failure nothing of it is left and the machine runs.
 */
export async function storeSnapshot(
  live: LiveMachine,
  store: SnapshotStore,
  request: SnapshotRequest,
  host: Host,
  signal: AbortSignal,
): Promise<{ readonly snapshot: StoredSnapshot; readonly pausedMs: number }> {
  const { id, beforePublish, ...rest } = request;
  await using unfinished = await store.createUnfinished(id, host.workerId);
  const { directory } = unfinished;
  const captured = await captureMachine(live, { directory, ...rest }, host, signal);
  await using undo = new AsyncDisposableStack();
  if (request.afterwards === "paused") {
    undo.defer(async () => {
      await resumeAfterCapture(live).catch((error: unknown) => {
        host.log("warn", "cannot resume a machine", { machine: live.id, ...describeError(error) });
      });
    });
  }
  const { files, memory, ownBytes } = (await beforePublish?.(captured, directory)) ?? captured;
  const { image, shape, spec } = live;
  const { name, version } = host.hypervisor;
  const origin = { id, image, shape, network: spec.network.kind, hypervisor: { name, version } };
  const snapshot = await unfinished.publish(manifestOf(origin, { files, memory, ownBytes }));
  undo.move();
  return { snapshot, pausedMs: captured.pausedMs };
}
