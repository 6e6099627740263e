import { setTimeout as sleep } from "node:timers/promises";
import type { Hypervisor, MemoryHotplug } from "#hypervisor/hypervisor.ts";
import type { LiveMachine } from "../live-machine.ts";

/** The largest machine that can be requested, in MiB. */
const maxMachineMib = 65_536;

/**
 * Largest size of a machine, as a multiple of the memory that it booted with. The guest keeps 64 bytes for each page of
 * 4 KiB, and keeps those of hotplugged pages in its boot memory: at this factor they take an eighth of it.
 */
const maxHotplugFactor = 8;

/** How often the guest's memory is polled while it changes. */
const pollMs = 10;

/** Without progress for this long a resize has failed. Under emulation a block of 128 MiB takes a second. */
const standstillMs = 30_000;

/** Waits until the guest has the requested `mib` of hotplugged memory. False: it has stopped taking or returning memory. */
export async function waitForMemory(hotplug: MemoryHotplug, mib: number, signal: AbortSignal): Promise<boolean> {
  let since = performance.now();
  for (let last: number | undefined; performance.now() - since < standstillMs;) {
    const { presentMib } = await hotplug.state();
    if (presentMib === mib) return true;
    if (presentMib !== last) since = performance.now();
    last = presentMib;
    await sleep(pollMs, undefined, { signal });
  }
  return false;
}

/** All memory that the guest of a machine was asked to have, in MiB. */
export async function memoryMibOf({ vm, shape }: LiveMachine): Promise<number> {
  return shape.memoryMib + ((await vm.hotplug?.state())?.requestedMib ?? 0);
}

/** How much memory can be added to a machine that boots with `memoryMib`, in MiB. Pure. */
export function maxHotplugMib(memoryMib: number): number {
  return Math.max(0, Math.min(maxHotplugFactor * memoryMib, maxMachineMib) - memoryMib);
}

/** The size of the memory base of machines that boot with `memoryMib`, in MiB. */
export function memoryBaseMib(memoryMib: number, { restoring }: Hypervisor): number {
  return restoring?.baseMib?.({ memoryMib, hotplugMib: maxHotplugMib(memoryMib) }) ?? memoryMib;
}
