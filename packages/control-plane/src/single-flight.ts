import { orAborted } from "@opensandbox/wire/or-aborted.ts";

/** Work that is done once however many ask for it at the same time: all get the one result, or the one error. */
export class SingleFlight<Key, T> {
  readonly #flights = new Map<Key, Promise<T>>();

  /** Joins the work on `key` that is on its way, or begins it. Who gives up waiting does not end it. */
  async run(key: Key, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#begin(key, work);
    return signal === undefined ? await flight : await orAborted(flight, signal);
  }

  /** Waits for the work on `key` that is on its way, if there is any. */
  async join(key: Key, signal: AbortSignal): Promise<void> {
    const flight = this.#flights.get(key);
    if (flight !== undefined) await orAborted(flight, signal);
  }

  #begin(key: Key, work: () => Promise<T>): Promise<T> {
    const flight = work().finally(() => this.#flights.delete(key));
    // Whoever waits for it hears of its failure; perhaps nobody does any more.
    flight.catch(() => {});
    this.#flights.set(key, flight);
    return flight;
  }
}
