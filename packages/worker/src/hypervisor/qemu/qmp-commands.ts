import { SandboxError } from "@opensandbox/wire/errors.ts";
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

interface MemoryDevice {
  readonly id: string;
  /** Where it is in the guest's memory. */
  readonly memaddr: number;
  /** In bytes: what the guest has, was asked to have, and can have. */
  readonly size: number;
  readonly "requested-size": number;
  readonly "max-size": number;
}

/** A device of virtio-mem as it is now. */
export async function queryMemoryDevice(qmp: QmpClient, id: string): Promise<MemoryDevice> {
  const devices = (await qmp.execute("query-memory-devices")) as { data: MemoryDevice }[];
  const found = devices.find(({ data }) => data.id === id)?.data;
  if (found === undefined) throw new SandboxError("internal", `QEMU has no memory device ${id}`);
  return found;
}

/** Asks the guest to have `bytes` of a device of virtio-mem. */
export async function requestMemory(qmp: QmpClient, id: string, bytes: number): Promise<void> {
  await qmp.execute("qom-set", { path: `/machine/peripheral/${id}`, property: "requested-size", value: bytes });
}

/** Where QEMU has the guest's physical address `address` in its own memory. Only the monitor for people tells that. */
export async function hostAddress(qmp: QmpClient, address: number): Promise<number> {
  const said = String(await qmp.execute("human-monitor-command", { "command-line": `gpa2hva ${address}` }));
  const found = / is (0x[0-9a-f]+)\s*$/.exec(said)?.[1];
  if (found === undefined) {
    throw new SandboxError("unavailable", `QEMU does not tell where its memory is: ${said}`);
  }
  return Number(found);
}

interface ImageInfo {
  readonly filename: string;
  readonly "backing-image"?: ImageInfo;
}

/** The image files of each device that has one, by the device's path, the one that is written to first. */
export async function queryImages(qmp: QmpClient): Promise<ReadonlyMap<string, readonly string[]>> {
  const devices = (await qmp.execute("query-block")) as { qdev?: string; inserted?: { image: ImageInfo } }[];
  return new Map(devices.map(({ qdev = "", inserted }) => [qdev, [...imagesFrom(inserted?.image)]]));
}

function* imagesFrom(top: ImageInfo | undefined): Generator<string> {
  for (let image = top; image !== undefined; image = image["backing-image"]) yield fileOf(image.filename);
}

/** What QEMU calls the file name of an image that was opened with options is all of them, as JSON. */
function fileOf(filename: string): string {
  if (!filename.startsWith("json:")) return filename;
  const { file } = JSON.parse(filename.slice("json:".length)) as { file: { filename: string } };
  return file.filename;
}

/** The names of all nodes of the block graph. */
export async function queryNodes(qmp: QmpClient): Promise<readonly string[]> {
  const nodes = (await qmp.execute("query-named-block-nodes", { flat: true })) as { "node-name": string }[];
  return nodes.map((node) => node["node-name"]);
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
  const { id, device, base } = job;
  // QEMU writes into the file what lies below it, at most 1023 bytes, of which a long chain would have more. Nobody
  // reads that: whoever opens the file says what is below.
  await qmp.execute("block-stream", { "job-id": id, device, "base-node": base, "backing-file": base });
}

/** The jobs that have not ended, by their ids. */
export async function queryBlockJobs(qmp: QmpClient): Promise<readonly string[]> {
  const jobs = (await qmp.execute("query-block-jobs")) as { device: string }[];
  return jobs.map(({ device }) => device);
}

export async function cancelBlockJob(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("block-job-cancel", { device: id });
}
