import type { GuestMemory, MemoryRegion } from "../guest-memory.ts";
import type { Capturing, MemoryHotplug, VmSpec } from "../hypervisor.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import { hotplugDevice } from "./command-line.ts";
import * as commands from "./qmp-commands.ts";

/**
 * Locates the guest's memory in a process of QEMU, whose boot memory is `first`. The memory that the guest can receive is
 * looked up once, when it is needed.
 */
export function memoryFinder(pid: number, spec: VmSpec, qmp: QmpClient, first: MemoryRegion): Capturing["memory"] {
  let second: MemoryRegion | undefined;
  return async (hotplugged): Promise<GuestMemory> => {
    if (!hotplugged || spec.hotplugMib === 0) return { pid, regions: [first] };
    if (second === undefined) {
      const device = await commands.queryMemoryDevice(qmp, hotplugDevice);
      const start = await commands.hostAddress(qmp, device.memaddr);
      second = { start, bytes: device["max-size"], hotplugged: true };
    }
    return { pid, regions: [first, second] };
  };
}

/** The hotplug of a VM whose spec has memory for it. */
export function memoryHotplug(qmp: QmpClient): MemoryHotplug {
  return {
    state: async () => {
      const device = await commands.queryMemoryDevice(qmp, hotplugDevice);
      return { requestedMib: device["requested-size"] / 2 ** 20, presentMib: device.size / 2 ** 20 };
    },
    request: (mib) => commands.requestMemory(qmp, hotplugDevice, mib * 2 ** 20),
  };
}
