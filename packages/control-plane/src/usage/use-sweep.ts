import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** Stores what the workers' machines have used, once an interval. Repeating a round, on another server too, is harmless. */
export class UseSweep {
  readonly #context: Pick<SandboxContext, "worker" | "stores" | "clock">;
  readonly #everyMs: number;
  /** Ended processes that are stored, and that the workers may forget. */
  #counted: readonly string[] = [];

  constructor(context: Pick<SandboxContext, "worker" | "stores" | "clock">, everyMs: number) {
    this.#context = context;
    this.#everyMs = everyMs;
  }

  async run(): Promise<void> {
    const { worker, stores, clock } = this.#context;
    const uses = await worker.measureUse(this.#counted);
    await stores.measuredUse.count(uses, clock.now(), this.#everyMs);
    this.#counted = uses.filter(({ ended }) => ended).map(({ process }) => process);
  }
}
