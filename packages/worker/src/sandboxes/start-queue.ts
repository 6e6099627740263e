import { asSandboxError } from "@opensandbox/wire/errors.ts";

/** A start yields its turn after this long: it boots from a disk, or its guest does not answer. */
const maxTurnMs = 5000;

/**
 * Limits how many machines start at once, in the order of the requests. A restored guest keeps a processor busy until it
 * has answered: with more of them than processors the first is as late as the last, and each sets its clock late.
 */
export class StartQueue {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(width: number) {
    this.#free = width;
  }

  /** Whether a request would have to wait. */
  get isFull(): boolean {
    return this.#free === 0;
  }

  /** Waits for a turn, which lasts until it is disposed, and at most {@link maxTurnMs}. @throws the signal's reason */
  async enter(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(signal);
    let over = false;
    const leave = (): void => {
      if (over) return;
      over = true;
      clearTimeout(deadline);
      this.#leave();
    };
    const deadline = setTimeout(leave, maxTurnMs);
    deadline.unref();
    return { [Symbol.dispose]: leave };
  }

  /** Hands the turn to the request that has waited longest, ahead of requests that arrive now. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(resolve);
      // The request has its turn already.
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
