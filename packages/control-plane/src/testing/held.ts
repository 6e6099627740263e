/** A point at which a test stops callers. Disposing it rejects those that wait. */
export class Held implements Disposable {
  readonly #reached = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();

  constructor() {
    // The promise may reject before a caller has reached this point.
    this.#released.promise.catch(() => {});
  }

  /** Settles when a caller has reached this point. */
  get reached(): Promise<void> {
    return this.#reached.promise;
  }

  readonly here = async (): Promise<void> => {
    this.#reached.resolve();
    await this.#released.promise;
  };

  release(): void {
    this.#released.resolve();
  }

  [Symbol.dispose](): void {
    this.#released.reject(new Error("the test has ended"));
  }
}
