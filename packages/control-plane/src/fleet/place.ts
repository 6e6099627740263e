/** A worker that may be chosen. */
export interface Candidate {
  readonly id: string;
  /** Why it gets no new sandboxes now. Absent: it accepts them. */
  readonly refusal?: string | undefined;
  /** Memory that machines can still get, less what starts on their way to it need. In MiB. */
  readonly freeMemoryMib: number;
  readonly totalMemoryMib: number;
  /** Free share of its disk, from 0 to 1. */
  readonly freeDiskShare: number;
  /** Starts that are on their way to it. */
  readonly starting: number;
  /** Machines that are ready to become this sandbox at once. */
  readonly ready: number;
  /** It has started a sandbox of the same image, so its template exists. */
  readonly hasTemplate: boolean;
  /** The object store from which it fetches snapshots that it lacks. */
  readonly objectStore?: string | undefined;
}

export interface Wish {
  readonly memoryMib: number;
  /** The workers that have the snapshot. Absent: the sandbox starts from an image. */
  readonly snapshotOn?: readonly string[];
  /** The object store that has the snapshot. */
  readonly storedIn?: string | undefined;
  /** The worker that the sandbox leaves. */
  readonly avoid?: string | undefined;
  /** The only worker that is wanted. */
  readonly only?: string | undefined;
}

/** The choice, and the reason for each worker. */
export interface Choice {
  /** Undefined: no worker can take the sandbox. */
  readonly workerId: string | undefined;
  readonly verdicts: readonly Verdict[];
}

export interface Verdict {
  readonly workerId: string;
  /** Higher is better. Absent: refused. */
  readonly score?: number;
  readonly reason: string;
}

/**
 * Share of a machine's memory that it is expected to touch, and the memory of its process, as in a worker's admission.
 */
const guestShare = 0.5;
const overheadMib = 256;
const minFreeDiskShare = 0.05;

/**
 * Chooses the worker with the highest score; of equals, the one with the smaller id. Pure.
 *
 * The score counts milliseconds of a start that the worker saves, roughly: a ready machine saves a restore, a template
 * saves a boot, a snapshot on its disk saves a transfer, and each start under way costs its share of the host. Free memory
 * decides between equals, so that sandboxes spread over the fleet.
 */
export function place(candidates: readonly Candidate[], wish: Wish): Choice {
  const verdicts = candidates.map((candidate) => verdictOf(candidate, wish));
  const best = verdicts
    .filter((verdict) => verdict.score !== undefined)
    .toSorted((a, b) => b.score! - a.score! || (a.workerId < b.workerId ? -1 : 1))[0];
  return { workerId: best?.workerId, verdicts };
}

/** Memory of the host that a machine of this size is expected to need, in MiB. */
export function neededMib(memoryMib: number): number {
  return Math.ceil(memoryMib * guestShare) + overheadMib;
}

function verdictOf(candidate: Candidate, { memoryMib, snapshotOn, storedIn, avoid, only }: Wish): Verdict {
  const {
    id: workerId,
    refusal,
    freeMemoryMib,
    totalMemoryMib,
    freeDiskShare,
    starting,
    ready,
    hasTemplate,
    objectStore,
  } = candidate;
  if (workerId === avoid) return { workerId, reason: "the sandbox leaves it" };
  if (only !== undefined && workerId !== only) return { workerId, reason: "another worker was asked for" };
  if (refusal !== undefined) return { workerId, reason: refusal };
  const hasSnapshot = snapshotOn?.includes(workerId) === true;
  if (snapshotOn !== undefined && !hasSnapshot && (storedIn === undefined || storedIn !== objectStore)) {
    const reason = storedIn === undefined ? "" : `, and it cannot fetch it from ${storedIn}`;
    return { workerId, reason: `it does not have the snapshot${reason}` };
  }
  const needed = neededMib(memoryMib);
  if (freeMemoryMib < needed) {
    return { workerId, reason: `it has ${freeMemoryMib} MiB of memory free, and the machine needs ${needed}` };
  }
  if (freeDiskShare < minFreeDiskShare) {
    return { workerId, reason: `its disk is full: ${Math.round(freeDiskShare * 100)} % is free` };
  }
  const spareMachines = Math.max(0, ready - starting);
  const score =
    (spareMachines > 0 ? 100 : 0) +
    (hasTemplate ? 200 : 0) +
    (hasSnapshot ? 1000 : 0) -
    20 * starting +
    // Less than one start counts, so that free memory decides only between equals.
    19 * (totalMemoryMib > 0 ? Math.min(1, freeMemoryMib / totalMemoryMib) : 0);
  const reason = [
    `${freeMemoryMib} MiB free`,
    `${starting} starting`,
    ...(spareMachines > 0 ? ["a ready machine"] : []),
    ...(hasTemplate ? ["the template"] : []),
    ...(snapshotOn === undefined ? [] : [hasSnapshot ? "the snapshot" : "fetches the snapshot"]),
  ].join(", ");
  return { workerId, score, reason };
}
