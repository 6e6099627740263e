import type { Progress, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { isShortOfMemory } from "#host/admission.ts";
import type { Host } from "#machine/host.ts";
import type { Sources } from "./start-sandbox.ts";

/** A client that waits in the queue hears of its position at most this often. */
const reportMs = 1000;

/**
 * Waits for the sandbox's turn to start a machine, and for the host's memory. Disposing the result ends both the turn and
 * the promise of memory.
 * @throws `no_capacity` when the host has no room in time, `unavailable` when too many sandboxes wait
 */
export async function takeTurn(
  { memoryMib, organizationId }: StartSandbox,
  { admission }: Pick<Host, "admission">,
  { queue, ready }: Pick<Sources, "queue"> & { readonly ready: Pick<Sources["ready"], "giveBack"> },
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
  const promised = await promiseNow();
  if (promised !== undefined) {
    turn.use(promised);
    return turn.move();
  }
  // Sandboxes that need less memory start meanwhile.
  entry[Symbol.dispose]();
  onProgress({ step: `waiting for ${memoryMib} MiB of the host's memory` });
  turn.use(await admission.admitLater(memoryMib, signal));
  turn.use(await queue.enter(organizationId, signal, onPosition));
  return turn.move();

  /** Ready machines give way. Undefined: there is not enough memory without them either. */
  async function promiseNow(): Promise<Disposable | undefined> {
    for (;;) {
      try {
        return await admission.admit(memoryMib);
      } catch (error) {
        if (!isShortOfMemory(error)) throw error;
        if (!(await ready.giveBack())) return undefined;
      }
    }
  }
}
