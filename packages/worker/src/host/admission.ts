import { statfs } from "node:fs/promises";
import { freemem, totalmem } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";

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

/** How often the host's memory is read while sandboxes wait for it. */
const pollMs = 250;

/** A sandbox waits this long for memory, which stays below the 30 s that many clients wait for a reply. */
const maxWaitMs = 20_000;

/** At most this many sandboxes wait for memory. */
const maxWaiting = 200;

/** A machine that waits for memory. */
interface Waiting {
  readonly memoryMib: number;
  readonly since: number;
  readonly grant: (promise: Disposable) => void;
  readonly refuse: (error: unknown) => void;
}

/**
 * Admits machines to a host. Memory counts as taken from the admission on, although a machine that starts uses little of
 * it yet: machines that start at the same time cannot be promised the same memory.
 */
export class Admission {
  readonly #room: () => Promise<HostRoom>;
  readonly #totalMemoryMib: number;
  #promisedMib = 0;
  /** In the order of their arrival. A machine that is too large for the present room lets smaller ones pass. */
  readonly #waiting = new Set<Waiting>();
  #isServing = false;

  constructor(room: () => Promise<HostRoom>, totalMemoryMib: number = totalmem() / 2 ** 20) {
    this.#room = room;
    this.#totalMemoryMib = totalMemoryMib;
  }

  /** The free resources, less the memory that machines which start now were promised. */
  async room(): Promise<HostRoom> {
    const { freeMemoryMib, freeDiskShare } = await this.#room();
    return { freeMemoryMib: Math.max(0, freeMemoryMib - this.#promisedMib), freeDiskShare };
  }

  /** @throws `no_capacity` when the disk is full, or the machine needs more memory than the host has */
  async requirePossible(memoryMib: number): Promise<void> {
    const { freeMemoryMib, freeDiskShare } = await this.#room();
    const isTooLarge = neededMib(memoryMib) > this.#totalMemoryMib;
    admit({ freeMemoryMib: isTooLarge ? freeMemoryMib : Infinity, freeDiskShare }, memoryMib);
  }

  /**
   * Disposing the result ends the promise: by then the machine uses its memory, or is gone.
   * @throws `no_capacity` when the host has no room now, or other machines wait for it
   */
  async admit(memoryMib: number): Promise<Disposable> {
    const room = await this.#room();
    if (this.#waiting.size === 0) return this.#promise(room, memoryMib);
    const message = `${this.#waiting.size} machines wait for the host's memory already: try again later`;
    const facts = { needMib: neededMib(memoryMib), freeMib: Math.max(0, room.freeMemoryMib - this.#promisedMib) };
    throw new SandboxError("no_capacity", message, { resource: "memory", ...facts });
  }

  /**
   * Waits for memory, behind the machines that wait already.
   * @throws `no_capacity` when there is none after {@link maxWaitMs} or too many machines wait; the signal's reason
   */
  async admitLater(memoryMib: number, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#waiting.size >= maxWaiting) return await this.admit(memoryMib);
    const { promise, resolve: grant, reject: refuse } = Promise.withResolvers<Disposable>();
    const waiting = { memoryMib, since: performance.now(), grant, refuse };
    const onAbort = (): void => {
      if (this.#waiting.delete(waiting)) refuse(asSandboxError(signal.reason));
    };
    this.#waiting.add(waiting);
    signal.addEventListener("abort", onAbort, { once: true });
    if (!this.#isServing) void this.#serve();
    try {
      return await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Grants and refuses while machines wait. Never rejects. */
  async #serve(): Promise<void> {
    this.#isServing = true;
    while (this.#waiting.size > 0) {
      await sleep(pollMs);
      let room: HostRoom | undefined;
      let failure: unknown;
      try {
        room = await this.#room();
      } catch (error) {
        failure = error;
      }
      for (const waiting of this.#waiting) {
        try {
          if (room === undefined) throw failure;
          const promise = this.#promise(room, waiting.memoryMib);
          this.#waiting.delete(waiting);
          waiting.grant(promise);
        } catch (error) {
          if (room !== undefined && performance.now() - waiting.since < maxWaitMs) continue;
          this.#waiting.delete(waiting);
          waiting.refuse(error);
        }
      }
    }
    this.#isServing = false;
  }

  /** Nothing is awaited between the reading of the room and the promise: two admissions must not see the same memory. */
  #promise({ freeMemoryMib, freeDiskShare }: HostRoom, memoryMib: number): Disposable {
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

/** Whether a machine was refused for the host's memory, which others may free. */
export function isShortOfMemory(error: unknown): boolean {
  return isSandboxError(error, "no_capacity") && error.details.resource === "memory";
}

/** Memory of the host that a machine is expected to need, in MiB. */
export function neededMib(memoryMib: number): number {
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
