import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Sandboxes to remember, oldest forgotten first: far more than start within the life of one late request. */
const maxRemembered = 100_000;

/**
 * The newest generation of each sandbox that was to start on this worker. A control plane raises a sandbox's generation
 * with every start, so a lower one comes from a control plane that is out of date, or from a request that was delayed.
 */
export class Generations {
  readonly #newest = new Map<SandboxId, number>();
  readonly #maxRemembered: number;

  constructor(remembered = maxRemembered) {
    this.#maxRemembered = remembered;
  }

  /**
   * Records that `generation` of the sandbox starts. The same generation may start again, after a failure.
   * @throws `wrong_state` when a newer generation has started here
   */
  start(id: SandboxId, generation: number): void {
    const newest = this.#newest.get(id) ?? 0;
    if (generation < newest) {
      throw new SandboxError(
        "wrong_state",
        `cannot start generation ${generation} of ${id}: generation ${newest} has started on this worker since`,
        { resource: "sandbox", state: `generation ${newest}`, allowed: [] },
      );
    }
    // Insertion order is the order of use.
    this.#newest.delete(id);
    this.#newest.set(id, generation);
    if (this.#newest.size <= this.#maxRemembered) return;
    for (const oldest of this.#newest.keys()) {
      this.#newest.delete(oldest);
      break;
    }
  }
}
