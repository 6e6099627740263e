import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { GuestAnswer, GuestRequest } from "@opensandbox/wire/worker/worker.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";

/** Requests of guests that may wait for an answer at the same time. */
const maxWaiting = 1000;

/** How long a guest waits for an answer, in milliseconds. */
const answerMs = 600_000;

/** Requests that guests make for themselves, on their way to the one listener that answers them. */
export class GuestRequests {
  readonly #waiting = new Map<string, (answer: GuestAnswer) => void>();
  #listener: Listener | undefined;

  /** Passes a request to the listener. Settles with its answer, or with 503 without one. Never rejects. */
  async ask(sandboxId: SandboxId, body: unknown): Promise<GuestAnswer> {
    if (this.#listener === undefined || this.#waiting.size >= maxWaiting) return unanswered;
    const requestId = randomHex(8);
    const { promise, resolve } = Promise.withResolvers<GuestAnswer>();
    this.#waiting.set(requestId, resolve);
    const timer = setTimeout(() => resolve(unanswered), answerMs).unref();
    this.#listener.add({ requestId, sandboxId, kind: "scale", body });
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(requestId);
    }
  }

  /** Every request from now on, until the signal aborts or another listener begins. */
  async *listen(signal: AbortSignal): AsyncGenerator<GuestRequest> {
    const listener = new Listener();
    const end = (): void => listener.end();
    this.#listener?.end();
    this.#listener = listener;
    signal.addEventListener("abort", end, { once: true });
    if (signal.aborted) end();
    try {
      yield* listener.requests();
    } finally {
      signal.removeEventListener("abort", end);
      if (this.#listener === listener) {
        this.#listener = undefined;
        for (const resolve of this.#waiting.values()) resolve(unanswered);
      }
    }
  }

  /** Answers a request. An answer after the guest has stopped waiting is dropped. */
  answer(requestId: string, answer: GuestAnswer): void {
    this.#waiting.get(requestId)?.(answer);
  }
}

const unanswered: GuestAnswer = {
  status: 503,
  body: { error: "no control plane is there to answer: try again later" },
};

class Listener {
  readonly #queue: GuestRequest[] = [];
  #changed = Promise.withResolvers<void>();
  #ended = false;

  add(request: GuestRequest): void {
    this.#queue.push(request);
    this.#changed.resolve();
  }

  end(): void {
    this.#ended = true;
    this.#changed.resolve();
  }

  async *requests(): AsyncGenerator<GuestRequest> {
    while (!this.#ended) {
      await this.#changed.promise;
      this.#changed = Promise.withResolvers();
      yield* this.#queue.splice(0);
    }
  }
}
