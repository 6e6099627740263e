import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";

/**
 * One gate for each sandbox: operations that change its state pass one at a time, in the order in which they were asked
 * for, and a call to the sandbox waits until none is running. The gate is what makes a row and its machine change
 * together, and it queues because callers expect a delete during a wake to succeed.
 *
 * The worker has a lock of its own that refuses instead of queueing (`LiveSandbox.exclusively`). It guards one machine
 * against two operations at once, from any caller. Behind a gate it never refuses; when it does, a caller bypassed the gate.
 */
export class Gates {
  readonly #last = new Map<SandboxId, Promise<void>>();

  /** Runs `operation` after every operation that was asked for before it. */
  async run<T>(id: SandboxId, operation: () => Promise<T>): Promise<T> {
    const before = this.#last.get(id);
    const ended = Promise.withResolvers<void>();
    this.#last.set(id, ended.promise);
    try {
      await before;
      return await operation();
    } finally {
      ended.resolve();
      if (this.#last.get(id) === ended.promise) this.#last.delete(id);
    }
  }

  /** Resolves when no operation is running or queued. Rejects with the signal's reason. */
  async open(id: SandboxId, signal: AbortSignal): Promise<void> {
    for (let last = this.#last.get(id); last !== undefined; last = this.#last.get(id)) {
      await orAborted(last, signal);
    }
  }
}
