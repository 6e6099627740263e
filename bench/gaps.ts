import { setTimeout as sleep } from "node:timers/promises";

/** After this many ticks the source counts as regular. */
const steadyTicks = 20;

/** A source without a tick for this long counts as dead. */
const deadMs = 120_000;

/** Measures the pauses in a regular stream of ticks. */
export class Gaps {
  #last = performance.now();
  #longest = 0;
  #ticks = 0;

  tick(): void {
    const now = performance.now();
    this.#longest = Math.max(this.#longest, now - this.#last);
    this.#last = now;
    this.#ticks += 1;
  }

  /** Waits until ticks arrive regularly, then clears the recorded gaps. */
  async steady(): Promise<void> {
    await this.#more(steadyTicks);
    this.#longest = 0;
  }

  /** The longest gap since then, in milliseconds. Waits for the end of a gap in progress. */
  async longest(): Promise<number> {
    await this.#more(2);
    return this.#longest;
  }

  async #more(ticks: number): Promise<void> {
    const wanted = this.#ticks + ticks;
    const deadline = performance.now() + deadMs;
    while (this.#ticks < wanted) {
      if (performance.now() > deadline) throw new Error("the guest's output has stopped");
      await sleep(1);
    }
  }
}
