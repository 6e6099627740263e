import type { QmpClient } from "./qmp-client.ts";

/** The nodes of the block graph by their names. */
export interface BlockGraph {
  readonly nodes: readonly string[];
  /** A node and those below it, the highest first. */
  readonly chainFrom: (top: string) => readonly string[];
}

/**
 * Reads the block graph. QEMU also describes an image with those below it as one text, but cuts it off after 4095
 * characters, which a chain of 25 layers exceeds, and takes seconds for a long chain.
 */
export async function queryGraph(qmp: QmpClient): Promise<BlockGraph> {
  const { nodes, edges } = (await qmp.execute("x-debug-query-block-graph")) as {
    nodes: { id: number; name: string }[];
    edges: { parent: number; child: number; name: string }[];
  };
  const names = new Map(nodes.map(({ id, name }) => [id, name]));
  const backing = new Map<string, string>();
  for (const { parent, child, name } of edges) {
    const [above, below] = [names.get(parent), names.get(child)];
    if (name === "backing" && above !== undefined && below !== undefined) backing.set(above, below);
  }
  const chainFrom = (top: string): readonly string[] => {
    const chain: string[] = [];
    for (let node: string | undefined = top; node !== undefined; node = backing.get(node)) chain.push(node);
    return chain;
  };
  return { nodes: [...names.values()], chainFrom };
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
