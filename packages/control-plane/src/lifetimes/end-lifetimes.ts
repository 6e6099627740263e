import { describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { passingStates } from "#lifecycle/sandbox-lifecycle.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import { putAway } from "#service/sweep-sandboxes.ts";
import type { LifetimeStore } from "./lifetime-store.ts";
import { resumed } from "./lifetime.ts";

/** The pause after a failed attempt to end a sandbox, in milliseconds. */
const retryMs = 30_000;

/** Deletes or hibernates sandboxes at the end of their lifetimes. */
export class LifetimeSweep {
  readonly #context: SandboxContext;
  readonly #lifetimes: LifetimeStore;
  readonly #ending = new Set<SandboxId>();
  /** Ends that failed, with the time of the next attempt by the elapsed clock. */
  readonly #failed = new Map<SandboxId, number>();

  constructor(context: SandboxContext, lifetimes: LifetimeStore) {
    this.#context = context;
    this.#lifetimes = lifetimes;
  }

  /**
   * Starts to end the sandboxes whose lifetime has ended, without waiting: a guest that hangs delays only its own
   * sandbox.
   */
  async run(): Promise<void> {
    const { clock, stores } = this.#context;
    for (const id of await stores.sandboxes.listPastDeletion(clock.now())) {
      this.#begin(id, () => endForGood(this.#context, id));
    }
    for (const { sandboxId: id } of await this.#lifetimes.listEnded(clock.now())) {
      this.#begin(id, () => endLifetime(this.#context, this.#lifetimes, id));
    }
  }

  #begin(id: SandboxId, end: () => Promise<void>): void {
    const {
      clock,
      operations: { background },
    } = this.#context;
    if (this.#ending.has(id) || clock.elapsed() < (this.#failed.get(id) ?? 0)) return;
    this.#ending.add(id);
    background.run("ending a sandbox at its set time", { sandbox: id }, () =>
      this.#end(id, end).finally(() => this.#ending.delete(id)),
    );
  }

  async #end(id: SandboxId, end: () => Promise<void>): Promise<void> {
    const { clock, log } = this.#context;
    try {
      await end();
      this.#failed.delete(id);
    } catch (error) {
      this.#failed.set(id, clock.elapsed() + retryMs);
      log("error", "cannot end a sandbox at its set time: trying again", { sandbox: id, ...describeError(error) });
    }
  }
}

/** Deletes a sandbox whose time of deletion has passed. */
async function endForGood(context: SandboxContext, id: SandboxId): Promise<void> {
  await context.operations.gates.run(id, async () => {
    const sandbox = await context.stores.sandboxes.find(id);
    if (sandbox === undefined || sandbox.state === "stopped" || passingStates.includes(sandbox.state)) return;
    // Another server ends its own sandboxes.
    if (sandbox.workerId !== "" && !context.placement.includes(sandbox.workerId)) return;
    await endSandbox(context, sandbox, { reason: "expired", endReason: "its maximum lifetime has passed" });
  });
}

async function endLifetime(context: SandboxContext, lifetimes: LifetimeStore, id: SandboxId): Promise<void> {
  await context.operations.gates.run(id, async () => {
    // A client may have moved the end while this operation waited.
    const lifetime = await lifetimes.find(id);
    if (lifetime === undefined || lifetime.endsAt.getTime() > context.clock.now()) return;
    const sandbox = await context.stores.sandboxes.find(id);
    if (sandbox === undefined || sandbox.state === "stopped") return await lifetimes.remove(id);
    const isOurs = context.placement.includes(sandbox.workerId) || sandbox.workerId === "";
    // Another server ends its own sandboxes, and an operation under way holds the gate of its own process.
    if (!isOurs || passingStates.includes(sandbox.state)) return;
    if (lifetime.paused) {
      // A client of another interface has woken it.
      if (sandbox.state === "running") await lifetimes.put(resumed(lifetime, context.clock.now()));
      return;
    }
    if (lifetime.atEnd === "delete") {
      await endSandbox(context, sandbox, { reason: "expired", endReason: "its set time has passed" });
      return await lifetimes.remove(id);
    }
    if (sandbox.state === "running") await putAway(context, sandbox, { reason: "its set time has passed" });
    await lifetimes.put({ ...lifetime, paused: true });
  });
}
