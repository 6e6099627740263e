import { describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { restartMachine } from "#lifecycle/restart-machine.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { moveSandbox } from "#lifecycle/migrate-sandbox.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { regularly } from "../service/regularly.ts";
import type { Member } from "./member.ts";
import type { WorkerStore } from "./worker-store.ts";

export interface DrainsOptions {
  readonly context: SandboxContext;
  readonly workers: WorkerStore;
  /** The workers that are being drained and answer. */
  readonly draining: () => readonly Member[];
  /** The workers that answer and whose disks are nearly full. */
  readonly crowded: () => readonly Member[];
  readonly everyMs: number;
}

/** Sandboxes that leave one worker at a time. Each move uses disk and network of two hosts. */
const movesPerWorker = 2;

/** The pause before another attempt to move a sandbox. The fleet may be full for a while. */
const pauseMs = 10_000;

/** Local copies of stored snapshots that are removed in one round. */
const removalsPerRound = 20;

/**
 * Empties the workers that are being drained: their running sandboxes move to other workers, and their snapshots are
 * removed when the object store has them. What cannot move now is tried again later. The rows say which workers are being
 * drained, so a drain continues after a restart of the server.
 */
export class Drains implements AsyncDisposable {
  readonly #options: DrainsOptions;
  readonly #rounds: AsyncDisposable;
  readonly #moving = new Map<SandboxId, string>();
  readonly #notBefore = new Map<SandboxId, number>();

  constructor(options: DrainsOptions) {
    this.#options = options;
    const { everyMs, context } = options;
    this.#rounds = regularly({ what: "draining workers", everyMs, log: context.log }, () => this.#round());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Moves under way are operations of the background, which the end of the service waits for.
    await this.#rounds[Symbol.asyncDispose]();
  }

  async #round(): Promise<void> {
    const members = this.#options.draining();
    for (const { id } of members) {
      for (const sandbox of await this.#options.context.stores.sandboxes.listHeldBy(id)) this.#beginMove(sandbox);
    }
    for (const member of new Set([...members, ...this.#options.crowded()])) await this.#removeCopies(member);
  }

  #beginMove({ id, workerId, state, bootsOnUse, hidden }: Sandbox): void {
    const { operations, clock } = this.#options.context;
    const canMove = state === "running" || (state === "error" && bootsOnUse);
    // A build of an image ends by itself.
    if (!canMove || hidden || this.#moving.has(id) || (this.#notBefore.get(id) ?? 0) > clock.now()) return;
    if ([...this.#moving.values()].filter((each) => each === workerId).length >= movesPerWorker) return;
    this.#moving.set(id, workerId);
    operations.background.run("moving a sandbox from a worker that is being drained", { sandbox: id }, async () => {
      try {
        await operations.gates.run(id, () => this.#move(id, workerId));
        this.#notBefore.delete(id);
      } catch (error) {
        this.#notBefore.set(id, clock.now() + pauseMs);
        throw error;
      } finally {
        this.#moving.delete(id);
      }
    });
  }

  async #move(id: SandboxId, workerId: string): Promise<void> {
    const { context } = this.#options;
    const sandbox = await context.stores.sandboxes.find(id);
    if (sandbox?.workerId !== workerId) return;
    if (sandbox.state === "running") await moveSandbox(context, sandbox, undefined);
    // Its disks are on the worker alone, and a snapshot is made of a machine that runs.
    else if (sandbox.state === "error" && sandbox.bootsOnUse) {
      await moveSandbox(context, await restartMachine(context, sandbox, "power-cycled"), undefined);
    }
  }

  async #removeCopies({ id, worker }: Member): Promise<void> {
    const { workers, context } = this.#options;
    for (const snapshotId of await workers.storedCopiesOn(id, removalsPerRound)) {
      try {
        // Waits for a start that reads it. A later start on the worker would fetch it again.
        await worker.removeSnapshot(snapshotId);
        await workers.removeCopy(snapshotId, id);
      } catch (error) {
        const fields = { worker: id, snapshot: snapshotId, ...describeError(error) };
        context.log("warn", "cannot remove a stored snapshot from a worker that is being drained", fields);
      }
    }
  }
}
