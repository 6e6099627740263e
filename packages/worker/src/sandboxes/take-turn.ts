import type { Progress, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { type Admission, isShortOfMemory } from "#host/admission.ts";
import type { StartQueue } from "./start-queue.ts";

/** A client that waits in the queue hears of its position at most this often. */
const reportMs = 1000;

/** The parts of a worker that decide when a sandbox gets a processor and memory. */
export interface Entrance {
  readonly queue: StartQueue;
  readonly admission: Admission;
  readonly ready: Reserve;
}

/** Memory that is given back when a sandbox needs it. */
export interface Reserve {
  /** Gives back a part. False: there is none left. */
  giveBack(): Promise<boolean>;
}

/**
 * Waits for the sandbox's turn to start a machine, and for the host's memory. Disposing the result ends both the turn and
 * the promise of memory.
 * @throws `no_capacity` when the host has no room in time, `unavailable` when too many sandboxes wait
 */
export async function takeTurn(
  { memoryMib, organizationId }: Pick<StartSandbox, "memoryMib" | "organizationId">,
  { queue, admission, ready }: Entrance,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Disposable> {
  let reportedAt = -Infinity;
  const onPosition = (ahead: number): void => {
    if (performance.now() - reportedAt < reportMs) return;
    reportedAt = performance.now();
    onProgress({ step: `waiting for other sandboxes to start, ${ahead} ahead` });
  };
  using turn = new DisposableStack();
  const entry = turn.use(await queue.enter(organizationId, signal, onPosition));
  try {
    turn.use(await promiseMemory(memoryMib, admission, ready));
    return turn.move();
  } catch (error) {
    if (!isShortOfMemory(error)) throw error;
  }
  // Sandboxes that need less memory start meanwhile.
  entry[Symbol.dispose]();
  onProgress({ step: `waiting for ${memoryMib} MiB of the host's memory` });
  turn.use(await admission.admitLater(memoryMib, signal));
  turn.use(await queue.enter(organizationId, signal, onPosition));
  return turn.move();
}

/**
 * Gets the promise of memory at once. Ready machines are ended for it.
 * @throws `no_capacity` when there is not enough memory without them either
 */
export async function promiseMemory(memoryMib: number, admission: Admission, ready: Reserve): Promise<Disposable> {
  for (;;) {
    try {
      return await admission.admit(memoryMib);
    } catch (error) {
      if (!isShortOfMemory(error) || !(await ready.giveBack())) throw error;
    }
  }
}
