import type { Span } from "@opensandbox/wire/worker/worker.ts";

/** Measures the parts of an operation, one after the other. */
export class Spans {
  readonly list: Span[] = [];
  #since = performance.now();

  /** Ends the part `name`, which began when the part before it ended. */
  end(name: string): void {
    const now = performance.now();
    this.list.push({ name, milliseconds: now - this.#since });
    this.#since = now;
  }
}
