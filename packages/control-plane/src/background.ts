import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "./log.ts";

/** Work that nobody waits for. */
export class Background {
  readonly #log: Log;
  readonly #running = new Set<Promise<void>>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Begins the work at once. What it throws is logged: a failure that somebody must hear of is the work's own matter. */
  run(what: string, fields: object, work: () => Promise<unknown>): void {
    this.wait(
      work().catch((error: unknown) => this.#log("error", `${what} failed`, { ...fields, ...describeError(error) })),
    );
  }

  /** Takes part in {@link idle}; a failure is the business of those who look at it. */
  wait(work: Promise<unknown>): void {
    const running: Promise<void> = work
      .then(
        () => {},
        () => {},
      )
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Resolves when nothing is on its way. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
