import { asSandboxError } from "@opensandbox/wire/errors.ts";

/** Who takes longer than this no longer holds up others: it boots from a disk, or its guest does not come. */
const holdMs = 5000;

/**
 * Lets so many machines begin at once as there are processors for, in the order of asking. A guest that has just been
 * restored is busy until it has answered: more of them at once are each slower, the first ones as late as the last, and
 * none is told the time before it is long past.
 */
export class StartQueue {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(width: number) {
    this.#free = width;
  }

  /** Whether who asks now has to wait. */
  get isFull(): boolean {
    return this.#free === 0;
  }

  /** Waits for a turn, which lasts until it is disposed, but not for long. @throws the signal's reason */
  async enter(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(signal);
    let over = false;
    const leave = (): void => {
      if (over) return;
      over = true;
      clearTimeout(tired);
      this.#leave();
    };
    const tired = setTimeout(leave, holdMs);
    tired.unref();
    return { [Symbol.dispose]: leave };
  }

  /** A turn that was left is handed over: nobody who comes now is before who waits. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(resolve);
      // It has been given its turn already.
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      reject(asSandboxError(signal.reason));
    };
    this.#waiting.push(resolve);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
