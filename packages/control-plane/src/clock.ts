/** The time as a dependency, which tests move by hand. */
export interface Clock {
  /** Milliseconds since 1970, for values that are stored or shown. */
  now(): number;
  /** Monotonic milliseconds, for durations. */
  elapsed(): number;
}

export const systemClock: Clock = { now: () => Date.now(), elapsed: () => performance.now() };
