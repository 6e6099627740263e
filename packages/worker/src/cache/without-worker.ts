import { join } from "node:path";
import { liveWorkers } from "#host/worker-lock.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";

// For a command that works on a data directory itself.

/** Whether a worker runs on the data directory, in any process. */
export async function hasLiveWorker(dataDirectory: string): Promise<boolean> {
  return (await liveWorkers(join(dataDirectory, "workers"))).length > 0;
}

/** Removes a snapshot. Only for use while no worker runs: a worker knows which snapshots are being read. */
export async function removeSnapshotOf(dataDirectory: string, snapshotId: string): Promise<void> {
  await new SnapshotStore(join(dataDirectory, "snapshots")).remove(snapshotId);
}
