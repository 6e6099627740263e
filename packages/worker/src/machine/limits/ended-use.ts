import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import type { ProcessUse } from "./use-meter.ts";

/** Ended processes that are remembered. Beyond it the oldest are lost: nothing has asked for the use for a long time. */
const maxProcesses = 20_000;

/** What the machines of sandboxes that have left this worker have used, until it is stored elsewhere. */
export class EndedUse {
  readonly #uses = new Map<string, MachineUse>();

  add(sandboxId: SandboxId, processes: readonly ProcessUse[]): void {
    for (const use of processes) this.#uses.set(use.process, { sandboxId, ...use, ended: true });
    for (const oldest of this.#uses.keys()) {
      if (this.#uses.size <= maxProcesses) return;
      this.#uses.delete(oldest);
    }
  }

  forget(processes: ReadonlySet<string>): void {
    for (const process of processes) this.#uses.delete(process);
  }

  get list(): readonly MachineUse[] {
    return [...this.#uses.values()];
  }
}
