import type { Clock } from "../../clock.ts";

/** An organization may save up the calls of this many seconds. */
const burstSeconds = 5;

/** Bounds the calls of each organization by a bucket that fills evenly. Each server counts for itself. */
export class CallRates {
  readonly perSecond: number;
  readonly #clock: Clock;
  /** Calls that an organization may make at once, and when that was counted. */
  readonly #buckets = new Map<string, { calls: number; at: number }>();

  /** @param perSecond 0: no bound */
  constructor(perSecond: number, clock: Clock) {
    this.perSecond = perSecond;
    this.#clock = clock;
  }

  /** Counts a call. Returns 0, or for a call too many the whole seconds until the next one is accepted. */
  take(organizationId: string): number {
    if (this.perSecond === 0) return 0;
    const full = this.perSecond * burstSeconds;
    const now = this.#clock.elapsed();
    const bucket = this.#buckets.get(organizationId) ?? { calls: full, at: now };
    this.#buckets.set(organizationId, bucket);
    bucket.calls = Math.min(full, bucket.calls + ((now - bucket.at) / 1000) * this.perSecond);
    bucket.at = now;
    if (bucket.calls < 1) return Math.ceil((1 - bucket.calls) / this.perSecond);
    bucket.calls -= 1;
    return 0;
  }
}
