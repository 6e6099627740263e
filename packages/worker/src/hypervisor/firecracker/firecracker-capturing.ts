import type { Capturing, LayerMerge, LayerSwitch, VmSpec } from "../hypervisor.ts";
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
    const disks = { qmp: storage, readTops: () => readTops(storage), whileIdle: whilePaused(api) };
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

/** The highest node of each export, which is named after its disk. */
async function readTops(storage: QmpClient): Promise<(disk: string) => string | undefined> {
  const exports = (await storage.execute("query-block-exports")) as { id: string; "node-name": string }[];
  return (disk) => exports.find(({ id }) => id === disk)?.["node-name"];
}
