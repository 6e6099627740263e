import { statfs } from "node:fs/promises";
import { freemem } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** What of a host decides whether one more machine may start. */
export interface HostRoom {
  /** What processes can still get without anything being swapped or killed (MemAvailable). */
  readonly freeMemoryMib: number;
  /** Of the file system that holds the data directory, from 0 to 1. */
  readonly freeDiskShare: number;
}

/** Below this share of free disk nothing new starts: what runs already needs room to write. */
const minFreeDiskShare = 0.05;

/** What a machine takes beside its guest's memory, and what the host keeps for itself. */
const besideGuestMib = 256;

/**
 * A guest seldom touches all its memory, and what it shares with others takes nothing: a machine may start when a good
 * part of its memory is free, so that a host is full long before it has to kill.
 */
const guestShare = 0.5;

export async function hostRoom(dataDirectory: string): Promise<HostRoom> {
  const { bavail, blocks } = await statfs(dataDirectory);
  return { freeMemoryMib: Math.floor(freemem() / 2 ** 20), freeDiskShare: blocks === 0 ? 1 : bavail / blocks };
}

/** Pure. @throws `no_capacity` with what is missing */
export function admit({ freeMemoryMib, freeDiskShare }: HostRoom, memoryMib: number): void {
  const needMemoryMib = Math.ceil(memoryMib * guestShare) + besideGuestMib;
  if (freeDiskShare < minFreeDiskShare) {
    throw new SandboxError(
      "no_capacity",
      `the disk of the data directory is ${Math.round((1 - freeDiskShare) * 100)} % full: nothing new is started before ` +
        `${minFreeDiskShare * 100} % are free. Delete sandboxes or checkpoints`,
      { resource: "disk" },
    );
  }
  if (freeMemoryMib < needMemoryMib) {
    throw new SandboxError(
      "no_capacity",
      `this host has ${freeMemoryMib} MiB of memory left, and a machine with ${memoryMib} MiB needs ${needMemoryMib}: ` +
        "try again when others have ended, or ask for less",
      { resource: "memory", needMib: needMemoryMib, freeMib: freeMemoryMib },
    );
  }
}
