import { orAborted } from "@opensandbox/wire/or-aborted.ts";

/** Concurrent calls for the same key share one run of the work, and its result or error. */
export class SingleFlight<Key, T> {
  readonly #flights = new Map<Key, Promise<T>>();

  /** Joins the work in progress on `key`, or begins it. The work continues when a caller gives up waiting. */
  async run(key: Key, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#start(key, work);
    return signal === undefined ? await flight : await orAborted(flight, signal);
  }

  /** Waits for the work in progress on `key`, if any. */
  async join(key: Key, signal: AbortSignal): Promise<void> {
    const flight = this.#flights.get(key);
    if (flight !== undefined) await orAborted(flight, signal);
  }

  #start(key: Key, work: () => Promise<T>): Promise<T> {
    const flight = work().finally(() => this.#flights.delete(key));
    // The callers of the work get its failure, and perhaps no caller is left.
    flight.catch(() => {});
    this.#flights.set(key, flight);
    return flight;
  }
}
