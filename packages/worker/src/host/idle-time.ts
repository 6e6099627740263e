/**
 * Quiet period before background work may run. The first command follows the start of a sandbox, and background work
 * must not compete with it for processors.
 */
const quietMs = 500;

/** Lets background work wait until no sandbox is being started. */
export class IdleTime {
  #starts = 0;
  #idle = true;
  #waiting: (() => void)[] = [];
  #quiet: NodeJS.Timeout | undefined;

  /** Marks the start of a sandbox, until it is disposed. */
  markBusy(): Disposable {
    this.#starts += 1;
    this.#idle = false;
    clearTimeout(this.#quiet);
    let over = false;
    return {
      [Symbol.dispose]: () => {
        if (over) return;
        over = true;
        this.#starts -= 1;
        if (this.#starts === 0) this.#startQuietPeriod();
      },
    };
  }

  /** Resolves when the host is idle, at once if it is already, or when the signal is aborted. */
  async untilIdle(signal: AbortSignal): Promise<void> {
    if (this.#idle || signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const onAbort = (): void => resolve();
    this.#waiting.push(resolve);
    signal.addEventListener("abort", onAbort, { once: true });
    await promise;
    signal.removeEventListener("abort", onAbort);
  }

  #startQuietPeriod(): void {
    this.#quiet = setTimeout(() => {
      this.#idle = true;
      for (const resolve of this.#waiting.splice(0)) resolve();
    }, quietMs);
    this.#quiet.unref();
  }
}
