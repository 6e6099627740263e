/**
 * So long nothing was started before the time is idle, in milliseconds: who has just got a sandbox runs the first
 * command in it, and is not to share the processors with what can wait.
 */
const quietMs = 500;

/** Lets what can wait be done when no sandbox is being started. */
export class IdleTime {
  #starts = 0;
  #idle = true;
  #waiting: (() => void)[] = [];
  #quiet: NodeJS.Timeout | undefined;

  /** A sandbox is being started until it is disposed: that comes first. */
  busy(): Disposable {
    this.#starts += 1;
    this.#idle = false;
    clearTimeout(this.#quiet);
    let over = false;
    return {
      [Symbol.dispose]: () => {
        if (over) return;
        over = true;
        this.#starts -= 1;
        if (this.#starts === 0) this.#begin();
      },
    };
  }

  /** Settles when the time is idle, which it may be at once, or when the signal is aborted. */
  async come(signal: AbortSignal): Promise<void> {
    if (this.#idle || signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const onAbort = (): void => resolve();
    this.#waiting.push(resolve);
    signal.addEventListener("abort", onAbort, { once: true });
    await promise;
    signal.removeEventListener("abort", onAbort);
  }

  #begin(): void {
    this.#quiet = setTimeout(() => {
      this.#idle = true;
      for (const resolve of this.#waiting.splice(0)) resolve();
    }, quietMs);
    this.#quiet.unref();
  }
}
