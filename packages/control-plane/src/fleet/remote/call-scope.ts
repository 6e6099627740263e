import { Code, ConnectError } from "@connectrpc/connect";

/**
 * The life of one call: it ends with its caller's signal, or when this side ends it. The end leaves no listener on the
 * caller's signal, which may outlive many calls. Disposing ends it.
 */
export class CallScope implements Disposable {
  readonly #own = new AbortController();
  readonly #caller: AbortSignal;
  readonly #onAbort = (): void => this.end();

  constructor(caller: AbortSignal) {
    this.#caller = caller;
    if (caller.aborted) this.end();
    else caller.addEventListener("abort", this.#onAbort);
  }

  /** Aborts when the call is over. */
  get signal(): AbortSignal {
    return this.#own.signal;
  }

  end(): void {
    this.#caller.removeEventListener("abort", this.#onAbort);
    // With any other reason the stream would be reset as after a failure of this side.
    this.#own.abort(new ConnectError("the call is over", Code.Canceled));
  }

  [Symbol.dispose](): void {
    this.end();
  }
}
