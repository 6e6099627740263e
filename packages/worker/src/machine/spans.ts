import type { Span } from "@opensandbox/wire/worker/worker.ts";

/** What each part of an operation took. */
export class Spans {
  readonly list: Span[] = [];
  #since = performance.now();

  /** The part that began with the end of the one before is over. */
  end(name: string): void {
    const now = performance.now();
    this.list.push({ name, milliseconds: now - this.#since });
    this.#since = now;
  }
}
