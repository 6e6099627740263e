import type { QmpClient } from "./qmp-client.ts";

/** Stops the vCPUs. */
export async function stop(qmp: QmpClient): Promise<void> {
  await qmp.execute("stop");
}

export async function cont(qmp: QmpClient): Promise<void> {
  await qmp.execute("cont");
}

/** What the ring buffer `device` holds; reading takes it out. */
export async function readRing(qmp: QmpClient, device: string, bytes: number): Promise<string> {
  return String(await qmp.execute("ringbuf-read", { device, size: bytes, format: "utf8" }));
}

/** Whether the guest runs, is paused, or has ended (`RunState` of QEMU's QMP reference). */
export async function queryStatus(qmp: QmpClient): Promise<string> {
  const { status } = (await qmp.execute("query-status")) as { status: string };
  return status;
}

/** Adds a node to the block graph. */
export async function blockdevAdd(qmp: QmpClient, blockdev: object): Promise<void> {
  await qmp.execute("blockdev-add", blockdev);
}

/** Takes away a node that nothing uses. */
export async function blockdevDel(qmp: QmpClient, node: string): Promise<void> {
  await qmp.execute("blockdev-del", { "node-name": node });
}

/** Puts each `overlay` over its `node`, all of them or none. */
export async function blockdevSnapshots(
  qmp: QmpClient,
  pairs: readonly { readonly node: string; readonly overlay: string }[],
): Promise<void> {
  await qmp.execute("transaction", { actions: pairs.map((data) => ({ type: "blockdev-snapshot", data })) });
}

/**
 * Writes the state of all devices, without memory and disks. Named after its first user, it is a part of every x86
 * QEMU. `live`: the disks stay this process's.
 */
export async function saveDevicesState(qmp: QmpClient, filename: string): Promise<void> {
  await qmp.execute("xen-save-devices-state", { filename, live: true });
}

/** What reading a state into a machine needs: news of its end, and no memory in the stream. */
export async function expectDevicesState(qmp: QmpClient): Promise<void> {
  const capabilities = ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities });
}

/** Begins to read a state; the events MIGRATION tell how that ends. */
export async function readDevicesState(qmp: QmpClient, file: string): Promise<void> {
  await qmp.execute("migrate-incoming", { uri: `file:${file}` });
}

/** Begins to copy into `device` what the nodes below it hold, down to `base`, which is not copied. */
export async function blockStream(
  qmp: QmpClient,
  job: { readonly id: string; readonly device: string; readonly base: string },
): Promise<void> {
  await qmp.execute("block-stream", { "job-id": job.id, device: job.device, "base-node": job.base });
}

export async function cancelBlockJob(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("block-job-cancel", { device: id });
}
