import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Capturing, LayerMerge, LayerSwitch, VmSpec } from "../hypervisor.ts";
import * as commands from "./block-commands.ts";
import { baseNode, isLayerOf, layerBlockdev, layerFile, layerNode, layerNumber } from "./disk-nodes.ts";
import type { QmpClient } from "./qmp-client.ts";

/** A canceled job ends after the request that it has under way; QEMU that takes this long has stopped working. */
const jobEndTimeoutMs = 30_000;

/** A process of QEMU that has disks open. */
export interface DiskProcess {
  readonly qmp: QmpClient;
  /** Reads the highest node of each disk, the one that takes writes. */
  readonly readTops: () => Promise<(disk: string) => string | undefined>;
  /**
   * Acts while the guest makes no request to its disks. Present where a request that meets the end of a job stops the
   * process forever; absent where the process serves requests and ends jobs at once.
   */
  readonly whileIdle?: (act: () => Promise<void>) => Promise<void>;
}

/**
 * The layers of writable disks in a process of QEMU. Each layer is a node of the block graph, named after its file. The
 * graph is the only record of them.
 */
export class DiskLayers implements Pick<Capturing, "readChains" | "openLayers" | "switchLayers" | "merge"> {
  /** The disks that take writes. */
  readonly #disks: readonly { readonly name: string; readonly directory: string }[];
  readonly #process: DiskProcess;
  readonly #qmp: QmpClient;

  constructor(spec: Pick<VmSpec, "disks">, process: DiskProcess) {
    this.#disks = spec.disks.flatMap(({ name, layers: [first] }) =>
      first === undefined ? [] : [{ name, directory: dirname(first) }],
    );
    this.#process = process;
    this.#qmp = process.qmp;
  }

  async readChains(): Promise<ReadonlyMap<string, readonly string[]>> {
    for (const job of await commands.queryBlockJobs(this.#qmp)) await this.#endJob(job);
    const topOf = await this.#process.readTops();
    const graph = await commands.queryGraph(this.#qmp);
    const layersOf = (disk: string): readonly string[] => {
      const top = topOf(disk);
      if (top === undefined) throw new SandboxError("internal", `QEMU reports no node of the disk ${disk}`);
      // The lowest node is the base.
      return graph.chainFrom(top).slice(0, -1).toReversed();
    };
    const chains = this.#disks.map((disk) => ({ ...disk, nodes: layersOf(disk.name) }));
    await this.#closeUnused(graph, new Set(chains.flatMap(({ nodes }) => nodes)));
    return new Map(chains.map(({ name, directory, nodes }) => [name, nodes.map((node) => layerFile(directory, node))]));
  }

  async openLayers(layers: readonly string[]): Promise<void> {
    for (const file of layers) {
      await commands.blockdevAdd(this.#qmp, { ...layerBlockdev(file, { writable: true }), backing: null });
    }
  }

  async switchLayers(switches: readonly LayerSwitch[]): Promise<void> {
    const pairs = switches.map(({ top, next }) => ({ node: layerNode(top), overlay: layerNode(next) }));
    await commands.blockdevSnapshots(this.#qmp, pairs);
  }

  async merge({ disk, into, base }: LayerMerge, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const job = `merge-${disk}`;
    using end = this.#endOf(job);
    const unconfirmed = Promise.withResolvers<never>();
    unconfirmed.promise.catch(() => undefined);
    const giveUp = (): void => void this.#endJob(job).catch(unconfirmed.reject);
    let failed: string | undefined;
    using _ = this.#qmp.listen(({ event, data }) => {
      // A command is served between requests to the disks. A job that was canceled meanwhile is gone.
      if (event === "BLOCK_JOB_PENDING" && data?.["id"] === job)
        commands.finalizeJob(this.#qmp, job).catch((error: unknown) => {
          if (!signal.aborted) unconfirmed.reject(error);
        });
      if (event !== "BLOCK_JOB_ERROR" || data?.["device"] !== job || data["action"] !== "stop") return;
      failed = `a ${String(data["operation"])} failed`;
      giveUp();
    });
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      const bottom = base === undefined ? baseNode(disk) : layerNode(base);
      const endsByCommand = this.#process.whileIdle !== undefined;
      await commands.blockStream(this.#qmp, { id: job, device: layerNode(into), base: bottom, endsByCommand });
      const { canceled, error = failed } = await Promise.race([this.#qmp.whileOpen(end.promise), unconfirmed.promise]);
      if (error !== undefined) throw new SandboxError("unavailable", `QEMU cannot merge layers of ${disk}: ${error}`);
      if (canceled) throw signal.reason;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
    await this.readChains();
  }

  async #closeUnused({ nodes }: commands.BlockGraph, inUse: ReadonlySet<string>): Promise<void> {
    const isUnused = (node: string): boolean =>
      !inUse.has(node) && this.#disks.some(({ name }) => isLayerOf(name, node));
    const unused = nodes.filter(isUnused);
    // The newest first, since each holds the one below it open.
    for (const node of unused.toSorted((a, b) => layerNumber(b) - layerNumber(a))) {
      await commands.blockdevDel(this.#qmp, node);
    }
  }

  /** Cancels a job, of this worker or an earlier one, and waits for its end. */
  async #endJob(job: string): Promise<void> {
    const { whileIdle = (act) => act() } = this.#process;
    using end = this.#endOf(job);
    const giveUp = new AbortController();
    await whileIdle(async () => {
      // The job may end before the command arrives; the query below decides.
      await commands.cancelBlockJob(this.#qmp, job).catch(() => undefined);
      if (!(await commands.queryBlockJobs(this.#qmp)).includes(job)) return;
      const tooLate = sleep(jobEndTimeoutMs, undefined, { signal: giveUp.signal }).then(() =>
        Promise.reject(notEnded(job)),
      );
      tooLate.catch(() => undefined);
      try {
        await Promise.race([this.#qmp.whileOpen(end.promise), tooLate]);
      } finally {
        giveUp.abort();
      }
    });
  }

  /** Watches for the end of a job until it is disposed. */
  #endOf(job: string): JobEnd {
    const { promise, resolve } = Promise.withResolvers<Awaited<JobEnd["promise"]>>();
    const listening = this.#qmp.listen(({ event, data }) => {
      if (data?.["device"] !== job) return;
      if (event === "BLOCK_JOB_CANCELLED") resolve({ canceled: true });
      if (event === "BLOCK_JOB_COMPLETED") resolve({ canceled: false, error: data["error"] as string | undefined });
    });
    return { promise, [Symbol.dispose]: () => listening[Symbol.dispose]() };
  }
}

interface JobEnd extends Disposable {
  /** Never rejects. */
  readonly promise: Promise<{ readonly canceled: boolean; readonly error?: string | undefined }>;
}

function notEnded(job: string): SandboxError {
  return new SandboxError("unavailable", `QEMU did not end the job ${job} in ${jobEndTimeoutMs / 1000} s`);
}
