/** A point that a test holds something up at: whoever comes there waits. Disposing it lets them go with an error. */
export class Held implements Disposable {
  readonly #reached = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();

  constructor() {
    // Nobody may have come there.
    this.#released.promise.catch(() => {});
  }

  /** Settles when somebody has come there. */
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
