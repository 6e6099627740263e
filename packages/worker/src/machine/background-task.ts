import { SandboxError } from "@opensandbox/wire/errors.ts";

/** At most one background task on a machine. It gives way to every operation on the machine as a whole. */
export class BackgroundTask {
  #present: { readonly abort: AbortController; readonly done: Promise<void> } | undefined;
  #next: ((signal: AbortSignal) => Promise<void>) | undefined;

  /**
   * Runs `work`, which reports its failure itself. While a task runs, `work` waits for its end, and takes the place of
   * what waits already: the running task may have missed what the call is about.
   */
  start(work: (signal: AbortSignal) => Promise<void>): void {
    if (this.#present !== undefined) {
      this.#next = work;
      return;
    }
    const abort = new AbortController();
    const done = work(abort.signal).finally(() => {
      this.#present = undefined;
      const next = this.#next;
      this.#next = undefined;
      if (next !== undefined && !abort.signal.aborted) this.start(next);
    });
    this.#present = { abort, done };
    done.catch(() => undefined);
  }

  /** Aborts the task and waits for its end. A task that waits for it does not run. */
  async stop(): Promise<void> {
    const present = this.#present;
    present?.abort.abort(new SandboxError("canceled", "another operation needs the machine"));
    await present?.done.catch(() => undefined);
  }
}
