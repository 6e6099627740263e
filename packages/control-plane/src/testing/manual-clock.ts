import type { Clock } from "../clock.ts";

/** A clock that only a test moves. */
export class ManualClock implements Clock {
  #milliseconds = 0;

  now(): number {
    return Date.UTC(2030, 0, 1) + this.#milliseconds;
  }

  elapsed(): number {
    return this.#milliseconds;
  }

  advance(seconds: number): void {
    this.#milliseconds += seconds * 1000;
  }
}
