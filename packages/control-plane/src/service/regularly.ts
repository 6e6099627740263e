import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";

export interface Regularly {
  /** The name of the work in the log. */
  readonly what: string;
  readonly everyMs: number;
  readonly log: Log;
}

/**
 * Does the work at a fixed interval, never twice at once: a round that is due while one is running is skipped. A failed
 * round is logged, and the next one runs. Disposing waits for the running round.
 */
export function regularly({ what, everyMs, log }: Regularly, work: () => Promise<void>): AsyncDisposable {
  let working: Promise<void> | undefined;
  const timer = setInterval(() => {
    working ??= work()
      .catch((error: unknown) => log("error", `${what} failed: the next round tries again`, describeError(error)))
      .finally(() => {
        working = undefined;
      });
  }, everyMs);
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await working;
    },
  };
}
