import type { Capturing, LayerMerge, LayerSwitch, VmSpec } from "../hypervisor.ts";
import { DiskLayers } from "../qmp/disk-layers.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import { diskDevice } from "./command-line.ts";
import * as commands from "./qmp-commands.ts";

/** The capture of a VM by its monitor. */
export class QemuCapturing implements Capturing {
  readonly memory: Capturing["memory"];
  readonly savingChangesMemory = false;
  readonly mergesInto = "top";
  readonly #qmp: QmpClient;
  readonly #layers: DiskLayers;

  constructor(spec: VmSpec, qmp: QmpClient, memory: Capturing["memory"]) {
    this.memory = memory;
    this.#qmp = qmp;
    const readTops = async () => {
      const tops = await commands.queryTopNodes(qmp);
      return (disk: string) => tops.get(`/machine/peripheral/${diskDevice(disk)}/virtio-backend`);
    };
    this.#layers = new DiskLayers(spec, { qmp, readTops });
  }

  async readChains(): Promise<ReadonlyMap<string, readonly string[]>> {
    return await this.#layers.readChains();
  }

  async openLayers(layers: readonly string[]): Promise<void> {
    await this.#layers.openLayers(layers);
  }

  async switchLayers(switches: readonly LayerSwitch[]): Promise<void> {
    await this.#layers.switchLayers(switches);
  }

  async merge(merge: LayerMerge, signal: AbortSignal): Promise<void> {
    await this.#layers.merge(merge, signal);
  }

  async saveDevices(file: string): Promise<void> {
    await commands.saveDevicesState(this.#qmp, file);
  }
}
