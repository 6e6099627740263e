import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";

/** A start yields its turn after this long: it boots from a disk, or its guest does not answer. */
const maxTurnMs = 5000;

/** At most this many requests wait. On a host with two processors the last of them waits for minutes. */
const defaultMaxWaiting = 1000;

interface Waiting {
  /** Its place in virtual time: see {@link StartQueue}. */
  readonly tag: number;
  readonly grant: () => void;
  readonly onPosition: (ahead: number) => void;
}

/**
 * Limits how many machines start at once. A restored guest keeps a processor busy until it has answered: with more of
 * them than processors the first is as late as the last, and each sets its clock late.
 *
 * Organizations take turns, and the requests of one organization come in their order, so a burst of one organization
 * delays another by one start. This is start-time fair queueing: a request's tag is the virtual time at its arrival, or
 * one more than the tag of its organization's last request if that is later. The request with the lowest tag is next, and
 * its tag becomes the virtual time.
 */
export class StartQueue {
  readonly #width: number;
  readonly #maxWaiting: number;
  #free: number;
  #virtualTime = 0;
  readonly #nextTags = new Map<string, number>();
  /** By tag, and requests of equal tags in the order of their arrival. */
  readonly #waiting: Waiting[] = [];

  constructor(width: number, { maxWaiting = defaultMaxWaiting }: { readonly maxWaiting?: number } = {}) {
    this.#width = width;
    this.#free = width;
    this.#maxWaiting = maxWaiting;
  }

  /**
   * Waits for a turn, which lasts until it is disposed, and at most {@link maxTurnMs}. Until then `onPosition` receives
   * the number of requests ahead, at once and whenever it changes.
   * @throws the signal's reason, or `unavailable` when too many requests wait already
   */
  async enter(
    organizationId: string,
    signal: AbortSignal,
    onPosition: (ahead: number) => void = () => undefined,
  ): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) {
      this.#free -= 1;
      this.#virtualTime = this.#tagOf(organizationId);
    } else {
      await this.#turn(organizationId, signal, onPosition);
    }
    let over = false;
    const leave = (): void => {
      if (over) return;
      over = true;
      clearTimeout(deadline);
      this.#leave();
    };
    const deadline = setTimeout(leave, maxTurnMs);
    deadline.unref();
    return { [Symbol.dispose]: leave };
  }

  /** Hands the turn to the next request, ahead of requests that arrive now. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next !== undefined) {
      this.#virtualTime = next.tag;
      next.grant();
      this.#reportFrom(0);
      return;
    }
    this.#free += 1;
    if (this.#free === this.#width) this.#nextTags.clear();
  }

  async #turn(organizationId: string, signal: AbortSignal, onPosition: (ahead: number) => void): Promise<void> {
    if (this.#waiting.length >= this.#maxWaiting) {
      const message = `${this.#maxWaiting} sandboxes wait to start on this host already: try again later`;
      throw new SandboxError("unavailable", message);
    }
    const { promise, resolve: grant, reject } = Promise.withResolvers<void>();
    const waiting = { tag: this.#tagOf(organizationId), grant, onPosition };
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(waiting);
      // The request has its turn already.
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      reject(asSandboxError(signal.reason));
      this.#reportFrom(at);
    };
    const later = this.#waiting.findIndex(({ tag }) => tag > waiting.tag);
    const place = later < 0 ? this.#waiting.length : later;
    this.#waiting.splice(place, 0, waiting);
    this.#reportFrom(place);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #tagOf(organizationId: string): number {
    const tag = Math.max(this.#virtualTime, this.#nextTags.get(organizationId) ?? 0);
    this.#nextTags.set(organizationId, tag + 1);
    return tag;
  }

  #reportFrom(place: number): void {
    for (const [offset, { onPosition }] of this.#waiting.slice(place).entries()) onPosition(place + offset);
  }
}
