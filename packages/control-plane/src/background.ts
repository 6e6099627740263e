import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "./log.ts";

/** Keeps track of work that has no caller. */
export class Background {
  readonly #log: Log;
  readonly #running = new Set<Promise<void>>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Begins the work at once and logs its failure. */
  run(what: string, fields: object, work: () => Promise<unknown>): void {
    this.wait(
      work().catch((error: unknown) => this.#log("error", `${what} failed`, { ...fields, ...describeError(error) })),
    );
  }

  /** Includes the work in {@link idle}. Its failure is left to its other callers. */
  wait(work: Promise<unknown>): void {
    const running: Promise<void> = work
      .then(
        () => {},
        () => {},
      )
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Resolves when no work is in progress. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
