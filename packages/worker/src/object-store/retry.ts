import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A failure of one request to a store, in terms that all stores share. */
export interface StoreFailure {
  readonly kind: "transient" | "refused" | "no bucket" | "other";
  readonly detail: string;
}

export interface RetryOptions {
  /** The operation, for errors. */
  readonly what: string;
  readonly tuning: StoreTuning;
  readonly describe: (error: unknown) => StoreFailure;
  readonly signal: AbortSignal;
}

/** The bounds of one operation. Tests shorten them. */
export interface StoreTuning {
  readonly attempts: number;
  /** Deadline of one attempt, which carries at most one chunk. In milliseconds. */
  readonly attemptMs: number;
  /** The longest pause before the first repetition. It doubles with each one. In milliseconds. */
  readonly firstPauseMs: number;
  readonly maxPauseMs: number;
}

/** With pauses of 15 s on average together: providers ask clients to back off for seconds after 503 and 429. */
export const storeTuning: StoreTuning = { attempts: 6, attemptMs: 60_000, firstPauseMs: 500, maxPauseMs: 15_000 };

/**
 * Runs one operation until it succeeds, fails for good, or has used up its attempts. Pauses are random up to a bound that
 * doubles, so that many clients do not return at once.
 */
export async function withRetries<T>(
  { what, tuning, describe, signal }: RetryOptions,
  attempt: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (let number = 1; ; number += 1) {
    signal.throwIfAborted();
    const deadline = AbortSignal.timeout(tuning.attemptMs);
    try {
      return await attempt(AbortSignal.any([signal, deadline]));
    } catch (error) {
      signal.throwIfAborted();
      const failure: StoreFailure = deadline.aborted
        ? { kind: "transient", detail: `no answer within ${tuning.attemptMs} ms` }
        : describe(error);
      if (failure.kind !== "transient" || number >= tuning.attempts) throw storeError(what, failure, number, error);
    }
    const bound = Math.min(tuning.maxPauseMs, tuning.firstPauseMs * 2 ** (number - 1));
    await sleep(Math.random() * bound, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

function storeError(what: string, { kind, detail }: StoreFailure, attempts: number, cause: unknown): SandboxError {
  switch (kind) {
    case "refused":
      return new SandboxError(
        "permission_denied",
        `the object store refuses to ${what}: ${detail}. Check its credentials`,
        { cause },
      );
    case "no bucket":
      return new SandboxError(
        "invalid_argument",
        `the object store cannot ${what}: ${detail}. Create the bucket or container that OPENSANDBOX_OBJECT_STORE names`,
        { cause },
      );
    case "transient":
    case "other":
      return new SandboxError(
        "unavailable",
        `the object store could not ${what} in ${attempts} ${attempts === 1 ? "attempt" : "attempts"}: ${detail}`,
        { cause },
      );
  }
}

/** Failures of the connection, and statuses that ask for another attempt. */
export function isTransient(status: number | undefined, error: unknown): boolean {
  if (status === undefined || status < 400) return !(error instanceof TypeError || error instanceof RangeError);
  return status === 408 || status === 429 || status >= 500;
}
