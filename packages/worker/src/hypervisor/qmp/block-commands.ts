import type { QmpClient } from "./qmp-client.ts";

/** An image file and the images below it, as QEMU describes them. */
export interface ImageInfo {
  readonly filename: string;
  readonly "backing-image"?: ImageInfo;
}

/** The files of an image and those below it, the highest first. */
export function* imagesFrom(top: ImageInfo | undefined): Generator<string> {
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

/** Changes the size of an image, and notifies the device that uses it. */
export async function blockResize(qmp: QmpClient, { node, bytes }: { readonly node: string; readonly bytes: number }) {
  await qmp.execute("block_resize", { "node-name": node, size: bytes });
}

/**
 * Starts a job that copies into `device` the content of the nodes between it and `base`. `endsByCommand`: a finished job
 * waits for {@link finalizeJob}, and a failed one to be canceled.
 */
export async function blockStream(
  qmp: QmpClient,
  job: { readonly id: string; readonly device: string; readonly base: string; readonly endsByCommand: boolean },
): Promise<void> {
  const { id, device, base, endsByCommand } = job;
  // QEMU records the backing file in the image, in at most 1023 bytes, which a long chain exceeds. A node's name is
  // short, and nothing reads the record: chains are given on the command line.
  const end = endsByCommand ? { "auto-finalize": false, "on-error": "stop" } : {};
  await qmp.execute("block-stream", { "job-id": id, device, "base-node": base, "backing-file": base, ...end });
}

/** Ends a job that has done its work and waits for that. */
export async function finalizeJob(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("job-finalize", { id });
}

/** Ids of the block jobs that have not ended. */
export async function queryBlockJobs(qmp: QmpClient): Promise<readonly string[]> {
  const jobs = (await qmp.execute("query-block-jobs")) as { device: string }[];
  return jobs.map(({ device }) => device);
}

/** Asks a block job to end; the event BLOCK_JOB_CANCELLED or BLOCK_JOB_COMPLETED reports its end. */
export async function cancelBlockJob(qmp: QmpClient, id: string): Promise<void> {
  // By force: a job that waits to be finalized ignores any other request.
  await qmp.execute("block-job-cancel", { device: id, force: true });
}
