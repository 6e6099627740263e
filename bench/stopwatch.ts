/** Named laps in milliseconds, measured from its construction. */
export class Stopwatch {
  readonly laps: Record<string, number> = {};
  readonly #start = performance.now();
  #since = this.#start;

  lap(name: string): void {
    const now = performance.now();
    this.laps[name] = (this.laps[name] ?? 0) + now - this.#since;
    this.#since = now;
  }

  /** Milliseconds since construction. */
  get elapsed(): number {
    return performance.now() - this.#start;
  }
}
