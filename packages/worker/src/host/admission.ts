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

/**
 * Admits machines to a host. Memory counts as taken from the admission on, although a machine that starts uses little of
 * it yet: machines that start at the same time cannot be promised the same memory.
 */
export class Admission {
  readonly #room: () => Promise<HostRoom>;
  #promisedMib = 0;

  constructor(room: () => Promise<HostRoom>) {
    this.#room = room;
  }

  /** The free resources, less the memory that machines which start now were promised. */
  async room(): Promise<HostRoom> {
    const { freeMemoryMib, freeDiskShare } = await this.#room();
    return { freeMemoryMib: Math.max(0, freeMemoryMib - this.#promisedMib), freeDiskShare };
  }

  /** Disposing the result ends the promise: by then the machine uses its memory, or is gone. @throws `no_capacity` */
  async admit(memoryMib: number): Promise<Disposable> {
    const { freeMemoryMib, freeDiskShare } = await this.#room();
    // Nothing is awaited from here to the promise: two admissions must not see the same memory.
    admit({ freeMemoryMib: Math.max(0, freeMemoryMib - this.#promisedMib), freeDiskShare }, memoryMib);
    const promisedMib = neededMib(memoryMib);
    this.#promisedMib += promisedMib;
    let isOver = false;
    return {
      [Symbol.dispose]: () => {
        if (!isOver) this.#promisedMib -= promisedMib;
        isOver = true;
      },
    };
  }
}

/** Memory of the host that a machine is expected to need, in MiB. */
function neededMib(memoryMib: number): number {
  return Math.ceil(memoryMib * guestShare) + overheadMib;
}

export async function hostRoom(dataDirectory: string): Promise<HostRoom> {
  const { bavail, blocks } = await statfs(dataDirectory);
  return { freeMemoryMib: Math.floor(freemem() / 2 ** 20), freeDiskShare: blocks === 0 ? 1 : bavail / blocks };
}

/** Pure. @throws `no_capacity` naming the resource that is short */
export function admit({ freeMemoryMib, freeDiskShare }: HostRoom, memoryMib: number): void {
  const needMemoryMib = neededMib(memoryMib);
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
