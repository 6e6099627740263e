import type { Shape } from "#snapshots/manifest.ts";
import { maxHotplugMib } from "./hotplug.ts";

/**
 * Size of the workspace that images are built with and templates have, in MiB: the smallest that the API offers. A larger
 * workspace is a larger disk over the same base, whose file system is enlarged in the guest.
 */
export const baseWorkspaceMib = 20_480;

/** Size of the workspace that is built for a machine, in MiB. One that is smaller than the base is built in its own size. */
export function builtWorkspaceMib(workspaceMib: number): number {
  return Math.min(workspaceMib, baseWorkspaceMib);
}

/**
 * Memory of the template for a machine of `memoryMib`: `baseMib`, to which the machine adds memory, or below which its
 * guest limits its commands. A machine that cannot add that much has a template with a power of two times the base. Pure.
 */
export function templateMemoryMib(memoryMib: number, baseMib: number): number {
  let templateMib = baseMib;
  while (templateMib + maxHotplugMib(templateMib) < memoryMib) templateMib *= 2;
  return templateMib;
}

/** What a hypervisor can change in a machine that it has restored. */
export interface Reshaping {
  readonly enlargesDisks: boolean;
  readonly hotplugsMemory: boolean;
  readonly sparesProcessors: boolean;
}

/**
 * vCPUs of a machine that can have more processors later: as many as the API lets a running sandbox ask for. The guest
 * takes the others offline; each costs a sleeping thread and less than 1 MB of the host's memory.
 */
const spareVcpus = 8;

/** Processors that are online in the guest of a template whose machine has spare vCPUs. */
export const templateProcessors = 1;

/** Whether the guest of a machine boots on its first processor and its agent brings others online. Pure. */
export function bootsOnOneProcessor(
  vcpus: number,
  reshaping: Pick<Reshaping, "sparesProcessors"> | undefined,
): boolean {
  return reshaping?.sparesProcessors === true && vcpus >= spareVcpus;
}

/** vCPUs of the machine for a sandbox of `vcpus`. Pure. */
export function machineVcpus(vcpus: number, { sparesProcessors }: Pick<Reshaping, "sparesProcessors">): number {
  return sparesProcessors ? Math.max(vcpus, spareVcpus) : vcpus;
}

/** The shape of the template that a machine of `shape` is restored from. Pure. */
export function templateShapeOf(shape: Shape, baseMib: number, reshaping: Reshaping): Shape {
  const { enlargesDisks, hotplugsMemory } = reshaping;
  return {
    vcpus: machineVcpus(shape.vcpus, reshaping),
    memoryMib: hotplugsMemory ? templateMemoryMib(shape.memoryMib, baseMib) : shape.memoryMib,
    workspaceMib: enlargesDisks ? builtWorkspaceMib(shape.workspaceMib) : shape.workspaceMib,
  };
}
