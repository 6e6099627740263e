import { statfs } from "node:fs/promises";
import { freemem } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The free resources that decide whether one more machine may start. */
export interface HostRoom {
  /** Memory that processes can still get without swapping or killing anything (MemAvailable). */
  readonly freeMemoryMib: number;
  /** Free share of the data directory's file system, from 0 to 1. */
  readonly freeDiskShare: number;
}

/** Below this share of free disk nothing new starts: running machines need room to write. */
const minFreeDiskShare = 0.05;

/** Memory of QEMU itself and a reserve for the host, for each machine. */
const overheadMib = 256;

/**
 * A guest seldom touches all its memory, and pages that it shares with other guests cost nothing. Half is enough that
 * the host refuses machines long before the kernel has to kill one.
 */
const guestShare = 0.5;

export async function hostRoom(dataDirectory: string): Promise<HostRoom> {
  const { bavail, blocks } = await statfs(dataDirectory);
  return { freeMemoryMib: Math.floor(freemem() / 2 ** 20), freeDiskShare: blocks === 0 ? 1 : bavail / blocks };
}

/** Pure. @throws `no_capacity` naming the resource that is short */
export function admit({ freeMemoryMib, freeDiskShare }: HostRoom, memoryMib: number): void {
  const needMemoryMib = Math.ceil(memoryMib * guestShare) + overheadMib;
  if (freeDiskShare < minFreeDiskShare) {
    throw new SandboxError(
      "no_capacity",
      `the disk of the data directory is ${Math.round((1 - freeDiskShare) * 100)} % full, and new machines need ` +
        `${minFreeDiskShare * 100} % of it free: delete sandboxes or checkpoints`,
      { resource: "disk" },
    );
  }
  if (freeMemoryMib < needMemoryMib) {
    throw new SandboxError(
      "no_capacity",
      `a machine with ${memoryMib} MiB needs ${needMemoryMib} MiB of free host memory, and ${freeMemoryMib} MiB are ` +
        "free: try again when other sandboxes have ended, or ask for less memory",
      { resource: "memory", needMib: needMemoryMib, freeMib: freeMemoryMib },
    );
  }
}
