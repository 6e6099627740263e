/** What a sandbox's commands do to its memory. */
export interface MemoryLoad {
  /** Memory of commands that the kernel cannot reclaim, as a share of what they may have. */
  readonly use: number;
  /** Share of the last ten seconds in which a command waited for memory, in percent: `some avg10` of PSI. */
  readonly pressure: number;
  /** How long the load has been low, in milliseconds. */
  readonly calmMs: number;
}

/** The present size of a sandbox and the range that it may have, in MiB. */
export interface MemoryRange {
  readonly memoryMib: number;
  readonly minMib: number;
  readonly maxMib: number;
}

/** Sizes are multiples of this, in MiB. */
const stepMib = 128;
/** From this use, or this pressure in percent, a sandbox grows. */
const growing = { use: 0.85, pressure: 10 };
const growth = 1.5;
/**
 * Below this use and pressure the load is low, and a sandbox shrinks when it has been low for the time. A sandbox that has
 * shrunk uses at most half of its memory, so that the next round does not undo it.
 */
const calm = { use: 0.4, pressure: 1, ms: 300_000 };

/** Whether the load is low. */
export function isCalm({ use, pressure }: Omit<MemoryLoad, "calmMs">): boolean {
  return use < calm.use && pressure < calm.pressure;
}

/** The size that the load asks for, within the range. Growth is fast, since commands wait for it; shrinking is slow. */
export function chooseMemory({ memoryMib, minMib, maxMib }: MemoryRange, load: MemoryLoad): number {
  const within = (mib: number): number => Math.min(maxMib, Math.max(minMib, Math.ceil(mib / stepMib) * stepMib));
  if (load.pressure >= growing.pressure || load.use >= growing.use) return within(memoryMib * growth);
  if (isCalm(load) && load.calmMs >= calm.ms) return within(memoryMib * Math.max(1 / 2, 2 * load.use));
  return within(memoryMib);
}
