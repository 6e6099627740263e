import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";

/**
 * One gate per sandbox: lifecycle operations pass it one at a time, everything else waits in front of it. It orders the
 * operations of this control plane; a worker also refuses an operation on a machine that is busy with another one.
 */
export class Gates {
  readonly #last = new Map<SandboxId, Promise<void>>();

  /** Runs `operation` when all that were asked for before it have ended. */
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

  /** Resolves when no operation is on its way; rejects with the signal's reason. */
  async open(id: SandboxId, signal: AbortSignal): Promise<void> {
    for (let last = this.#last.get(id); last !== undefined; last = this.#last.get(id)) {
      await orAborted(last, signal);
    }
  }
}
