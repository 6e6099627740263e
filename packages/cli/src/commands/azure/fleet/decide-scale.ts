import type { MemberReport } from "@opensandbox/server/fleet.ts";

export type ScaleStep =
  | { readonly kind: "none"; readonly why: string }
  | { readonly kind: "grow"; readonly to: number; readonly why: string }
  /** Moves the sandboxes of a worker away, so that it can go. */
  | { readonly kind: "drain"; readonly worker: MemberReport; readonly why: string }
  /** Ends a drain, since the worker is needed. */
  | { readonly kind: "admit"; readonly worker: MemberReport; readonly why: string }
  /** Deletes the machine of a worker that has nothing any more. */
  | { readonly kind: "remove"; readonly worker: MemberReport; readonly why: string };

export interface ScaleState {
  readonly workers: readonly MemberReport[];
  /** The number of machines that the scale set has or is making. */
  readonly capacity: number;
  readonly min: number;
  readonly max: number;
}

/** With more of the workers' memory committed, machines are added: a new one takes minutes to boot. */
const maxCommitted = 0.75;
/** Machines are added until so much is committed. */
const wantedCommitted = 0.6;
/** A worker goes when so little would be committed without it. Far from the maximum, so that none comes and goes. */
const minCommitted = 0.45;

/** The next step towards a number of workers that fits their committed memory. Pure. */
export function decideScale({ workers, capacity, min, max }: ScaleState): ScaleStep {
  const draining = workers.find((worker) => worker.draining);
  if (draining !== undefined && isEmpty(draining))
    return { kind: "remove", worker: draining, why: `worker ${draining.id} has nothing any more` };
  if (capacity < min) return { kind: "grow", to: min, why: `fewer than ${min} machines` };
  const active = workers.filter(({ state, cordoned, totalMemoryMib }) => {
    return state === "up" && !cordoned && totalMemoryMib !== undefined;
  });
  const total = sum(active.map(totalOf));
  const used = sum(active.map(usedOf));
  if (total === 0) return { kind: "none", why: "no worker has joined yet" };
  const percent = `${Math.round((used / total) * 100)} % of the memory is committed`;
  if (used / total > maxCommitted) {
    if (draining !== undefined) return { kind: "admit", worker: draining, why: percent };
    const booting = capacity - workers.length;
    if (booting > 0) return { kind: "none", why: `${percent}, and ${booting} machines have yet to join` };
    if (capacity >= max) return { kind: "none", why: `${percent}, and there are ${max} machines already` };
    const needed = Math.ceil(used / wantedCommitted / (total / active.length));
    const to = Math.min(max, Math.max(capacity + 1, capacity - active.length + needed));
    return { kind: "grow", to, why: percent };
  }
  if (draining !== undefined) return { kind: "none", why: `worker ${draining.id} is being drained` };
  const [least] = active.toSorted((a, b) => usedOf(a) - usedOf(b));
  if (least === undefined || active.length < 2 || capacity <= min || capacity > workers.length)
    return { kind: "none", why: percent };
  return used / (total - totalOf(least)) < minCommitted
    ? { kind: "drain", worker: least, why: percent }
    : { kind: "none", why: percent };
}

function isEmpty({ left }: MemberReport): boolean {
  return left !== undefined && left.sandboxes + left.snapshots === 0;
}

function totalOf({ totalMemoryMib = 0 }: MemberReport): number {
  return totalMemoryMib;
}

function usedOf({ totalMemoryMib = 0, freeMemoryMib = totalMemoryMib }: MemberReport): number {
  return Math.max(0, totalMemoryMib - freeMemoryMib);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
