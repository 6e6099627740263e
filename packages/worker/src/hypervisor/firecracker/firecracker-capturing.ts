import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Capturing, LayerMerge, LayerSwitch, VmSpec } from "../hypervisor.ts";
import { type ImageInfo, imagesFrom } from "../qmp/block-commands.ts";
import { DiskLayers, type DiskProcess } from "../qmp/disk-layers.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import type { ApiClient } from "./api-client.ts";
import * as requests from "./api-requests.ts";

/** The capture of a VM by its API, and of its disks by the storage daemon, which a VM without writable disks lacks. */
export class FirecrackerCapturing implements Capturing {
  readonly memory: Capturing["memory"];
  /** The state's last part is an event for the guest: that its connections over vsock have ended. */
  readonly savingChangesMemory = true;
  /** The export of a disk holds the right to resize its top, which a merge into it would have to share. */
  readonly mergesInto = "below top";
  readonly #api: ApiClient;
  readonly #layers: DiskLayers | undefined;

  constructor(spec: VmSpec, api: ApiClient, storage: QmpClient | undefined, memory: Capturing["memory"]) {
    this.memory = memory;
    this.#api = api;
    if (storage === undefined) return;
    const disks = { qmp: storage, readFiles: () => readFiles(storage), whileIdle: whilePaused(api) };
    this.#layers = new DiskLayers(spec, disks);
  }

  async readChains(): Promise<ReadonlyMap<string, readonly string[]>> {
    return (await this.#layers?.readChains()) ?? new Map();
  }

  async openLayers(layers: readonly string[]): Promise<void> {
    await this.#layers?.openLayers(layers);
  }

  async switchLayers(switches: readonly LayerSwitch[]): Promise<void> {
    if (switches.length > 0) await this.#layers?.switchLayers(switches);
  }

  async merge(merge: LayerMerge, signal: AbortSignal): Promise<void> {
    await this.#layers?.merge(merge, signal);
  }

  async saveDevices(file: string): Promise<void> {
    await requests.saveDevicesState(this.#api, file);
  }
}

/**
 * Acts while the vCPUs are stopped. The storage daemon of QEMU 10.0 serves a request until its end before anything else:
 * a job that ends meanwhile would wait for that request, and the request for the job.
 */
function whilePaused(api: ApiClient): DiskProcess["whileIdle"] & {} {
  return async (act) => {
    const wasRunning = await requests.isRunning(api);
    if (wasRunning) await requests.pause(api);
    try {
      await act();
    } finally {
      if (wasRunning) await requests.resume(api);
    }
  };
}

/** The files of each export's chain. An export is named after its disk. */
async function readFiles(storage: QmpClient): Promise<(disk: string) => readonly string[] | undefined> {
  const exports = (await storage.execute("query-block-exports")) as { id: string; "node-name": string }[];
  const nodes = (await storage.execute("query-named-block-nodes", { flat: false })) as {
    "node-name": string;
    image: ImageInfo;
  }[];
  return (disk) => {
    const top = exports.find(({ id }) => id === disk)?.["node-name"];
    const image = nodes.find((node) => node["node-name"] === top)?.image;
    if (image === undefined) throw new SandboxError("internal", `the storage daemon does not export the disk ${disk}`);
    return [...imagesFrom(image)];
  };
}
