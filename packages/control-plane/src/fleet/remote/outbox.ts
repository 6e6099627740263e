/**
 * The messages of one direction of a stream, from callers that write to a transport that reads. A message is passed on
 * when the transport asks for it, so nothing but the callers' own messages waits here.
 */
export class Outbox<T> implements AsyncIterableIterator<T> {
  readonly #waiting: { readonly message: T; readonly taken: PromiseWithResolvers<void> }[] = [];
  #handedOver: PromiseWithResolvers<void> | undefined;
  #changed = Promise.withResolvers<void>();
  #state: "open" | "ending" | "over" = "open";

  /** Settles when the transport has sent the message and could send another one, or when the peer reads no more. */
  async write(message: T): Promise<void> {
    if (this.#state !== "open") return;
    const taken = Promise.withResolvers<void>();
    this.#waiting.push({ message, taken });
    this.#changed.resolve();
    await taken.promise;
  }

  /** Ends the direction after the messages so far. */
  end(): void {
    if (this.#state === "open") this.#state = "ending";
    this.#changed.resolve();
  }

  /** Ends the direction at once: writes under way and later ones settle, and their messages are dropped. */
  drop(): void {
    this.#state = "over";
    this.#handedOver?.resolve();
    for (const { taken } of this.#waiting.splice(0)) taken.resolve();
    this.#changed.resolve();
  }

  async next(): Promise<IteratorResult<T>> {
    this.#handedOver?.resolve();
    this.#handedOver = undefined;
    for (;;) {
      const first = this.#waiting.shift();
      if (first !== undefined) {
        this.#handedOver = first.taken;
        return { done: false, value: first.message };
      }
      if (this.#state !== "open") return { done: true, value: undefined };
      await this.#changed.promise;
      this.#changed = Promise.withResolvers();
    }
  }

  /** The transport takes no more messages. */
  return(): Promise<IteratorResult<T>> {
    this.drop();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
