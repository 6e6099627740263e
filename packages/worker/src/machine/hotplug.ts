import type { LiveMachine } from "./live-machine.ts";

/** The largest machine that can be requested, in MiB. */
const maxMachineMib = 65_536;

/**
 * Largest size of a machine, as a multiple of the memory that it booted with. The guest keeps 64 bytes for each page of
 * 4 KiB, and keeps those of hotplugged pages in its boot memory: at this factor they take an eighth of it.
 */
const maxHotplugFactor = 8;

/** All memory that the guest of a machine was asked to have, in MiB. */
export async function memoryMibOf({ vm, shape }: LiveMachine): Promise<number> {
  return shape.memoryMib + ((await vm.hotplug?.state())?.requestedMib ?? 0);
}

/** How much memory can be added to a machine that boots with `memoryMib`, in MiB. Pure. */
export function maxHotplugMib(memoryMib: number): number {
  return Math.max(0, Math.min(maxHotplugFactor * memoryMib, maxMachineMib) - memoryMib);
}
