import type { LiveMachine } from "./live-machine.ts";

/** The largest machine that can be asked for, in MiB. */
const maxMachineMib = 65_536;

/**
 * How many times the memory that it began with a machine can have. The guest keeps 64 bytes about each page, and what
 * it keeps about added pages lies in the memory it began with: an eighth of that, at most.
 */
const maxHotplugFactor = 8;

/** All memory that the guest of a machine is to have at the moment, in MiB. */
export async function memoryMibOf({ vm, shape }: LiveMachine): Promise<number> {
  return shape.memoryMib + ((await vm.hotplug?.state())?.requestedMib ?? 0);
}

/** How much a machine that begins with `memoryMib` can be given beyond that. Pure. */
export function maxHotplugMib(memoryMib: number): number {
  return Math.max(0, Math.min(maxHotplugFactor * memoryMib, maxMachineMib) - memoryMib);
}
