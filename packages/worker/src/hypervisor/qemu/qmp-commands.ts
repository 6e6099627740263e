import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { QmpClient } from "./qmp-client.ts";

/** Stops the vCPUs; the VM may be stopped already. */
export async function stop(qmp: QmpClient): Promise<void> {
  await qmp.execute("stop");
}

/** Starts the vCPUs; they may run already. */
export async function cont(qmp: QmpClient): Promise<void> {
  await qmp.execute("cont");
}

/** Takes the content out of the ring buffer `device`. */
export async function readRing(qmp: QmpClient, device: string, bytes: number): Promise<string> {
  return String(await qmp.execute("ringbuf-read", { device, size: bytes, format: "utf8" }));
}

/** The VM's `RunState`, as in QEMU's QMP reference. */
export async function queryStatus(qmp: QmpClient): Promise<string> {
  const { status } = (await qmp.execute("query-status")) as { status: string };
  return status;
}

interface MemoryDevice {
  readonly id: string;
  /** Its address in the guest's physical memory. */
  readonly memaddr: number;
  /** In bytes: present, requested and possible. */
  readonly size: number;
  readonly "requested-size": number;
  readonly "max-size": number;
}

/** Reads the state of a virtio-mem device. @throws `internal` when no device has that id */
export async function queryMemoryDevice(qmp: QmpClient, id: string): Promise<MemoryDevice> {
  const devices = (await qmp.execute("query-memory-devices")) as { data: MemoryDevice }[];
  const found = devices.find(({ data }) => data.id === id)?.data;
  if (found === undefined) throw new SandboxError("internal", `QEMU has no memory device ${id}`);
  return found;
}

/** Asks the guest to plug `bytes` of a virtio-mem device. */
export async function requestMemory(qmp: QmpClient, id: string, bytes: number): Promise<void> {
  await qmp.execute("qom-set", { path: `/machine/peripheral/${id}`, property: "requested-size", value: bytes });
}

/** Translates a guest-physical address into one of the QEMU process. Only the human monitor can do that. */
export async function hostAddress(qmp: QmpClient, address: number): Promise<number> {
  const answer = String(await qmp.execute("human-monitor-command", { "command-line": `gpa2hva ${address}` }));
  const found = / is (0x[0-9a-f]+)\s*$/.exec(answer)?.[1];
  if (found === undefined) {
    throw new SandboxError("unavailable", `QEMU does not report the address of its memory: ${answer}`);
  }
  return Number(found);
}

interface ImageInfo {
  readonly filename: string;
  readonly "backing-image"?: ImageInfo;
}

/** The image files of each block device, by the device's path; the file that takes writes comes first. */
export async function queryImages(qmp: QmpClient): Promise<ReadonlyMap<string, readonly string[]>> {
  const devices = (await qmp.execute("query-block")) as { qdev?: string; inserted?: { image: ImageInfo } }[];
  return new Map(devices.map(({ qdev = "", inserted }) => [qdev, [...imagesFrom(inserted?.image)]]));
}

function* imagesFrom(top: ImageInfo | undefined): Generator<string> {
  for (let image = top; image !== undefined; image = image["backing-image"]) yield fileOf(image.filename);
}

/** For an image that was opened with options, QEMU's file name is a JSON object of all options. */
function fileOf(filename: string): string {
  if (!filename.startsWith("json:")) return filename;
  const { file } = JSON.parse(filename.slice("json:".length)) as { file: { filename: string } };
  return file.filename;
}

/** Names of all nodes in the block graph. */
export async function queryNodes(qmp: QmpClient): Promise<readonly string[]> {
  const nodes = (await qmp.execute("query-named-block-nodes", { flat: true })) as { "node-name": string }[];
  return nodes.map((node) => node["node-name"]);
}

/** Adds a node to the block graph. */
export async function blockdevAdd(qmp: QmpClient, blockdev: object): Promise<void> {
  await qmp.execute("blockdev-add", blockdev);
}

/** Removes a node that nothing uses from the block graph. */
export async function blockdevDel(qmp: QmpClient, node: string): Promise<void> {
  await qmp.execute("blockdev-del", { "node-name": node });
}

/** Puts each `overlay` over its `node`, in one transaction. */
export async function blockdevSnapshots(
  qmp: QmpClient,
  pairs: readonly { readonly node: string; readonly overlay: string }[],
): Promise<void> {
  await qmp.execute("transaction", { actions: pairs.map((data) => ({ type: "blockdev-snapshot", data })) });
}

/**
 * Writes the state of all devices, without memory and disks. The command is named after its first user and is part of
 * every x86 QEMU. `live` keeps the disks with this process.
 */
export async function saveDevicesState(qmp: QmpClient, filename: string): Promise<void> {
  await qmp.execute("xen-save-devices-state", { filename, live: true });
}

/** Prepares for reading a state: events report its end, and the stream has no memory. */
export async function expectDevicesState(qmp: QmpClient): Promise<void> {
  const capabilities = ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities });
}

/** Starts to read a state; the event MIGRATION reports how that ends. */
export async function readDevicesState(qmp: QmpClient, file: string): Promise<void> {
  await qmp.execute("migrate-incoming", { uri: `file:${file}` });
}

/** Starts a job that copies into `device` the content of the nodes between it and `base`. */
export async function blockStream(
  qmp: QmpClient,
  job: { readonly id: string; readonly device: string; readonly base: string },
): Promise<void> {
  const { id, device, base } = job;
  // QEMU records the backing file in the image, in at most 1023 bytes, which a long chain exceeds. A node's name is
  // short, and nothing reads the record: chains are given on the command line.
  await qmp.execute("block-stream", { "job-id": id, device, "base-node": base, "backing-file": base });
}

/** Ids of the block jobs that have not ended. */
export async function queryBlockJobs(qmp: QmpClient): Promise<readonly string[]> {
  const jobs = (await qmp.execute("query-block-jobs")) as { device: string }[];
  return jobs.map(({ device }) => device);
}

/** Asks a block job to end; the event BLOCK_JOB_CANCELLED or BLOCK_JOB_COMPLETED reports its end. */
export async function cancelBlockJob(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("block-job-cancel", { device: id });
}
