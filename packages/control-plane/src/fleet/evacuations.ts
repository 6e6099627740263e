import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { putToSleep } from "#sandboxes/hibernate-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** Hibernations of one worker at a time. Its disk writes the memory of each. */
const maxAtOnce = 4;

/** Hibernates the sandboxes of workers whose hosts are about to stop. */
export class Evacuations {
  readonly #hibernating = new Map<SandboxId, string>();

  /**
   * Begins as many hibernations of the worker's running sandboxes as it may do at once. The caller asks again until the
   * worker has none, which also repeats hibernations that failed. @returns the number of its sandboxes that still run
   */
  async begin(context: SandboxContext, workerId: string): Promise<number> {
    const { stores, operations } = context;
    const held = (await stores.sandboxes.listHeld()).filter((sandbox) => sandbox.workerId === workerId);
    // A build of an image ends with its worker, and begins again on another.
    const running = held.filter(({ state, hidden }) => !hidden && (state === "running" || state === "hibernating"));
    for (const { id, state } of running) {
      const underWay = [...this.#hibernating.values()].filter((each) => each === workerId).length;
      if (state !== "running" || this.#hibernating.has(id) || underWay >= maxAtOnce) continue;
      this.#hibernating.set(id, workerId);
      operations.background.run("hibernating a sandbox whose host is about to stop", { sandbox: id }, async () => {
        try {
          await operations.gates.run(id, async () => {
            const sandbox = await stores.sandboxes.find(id);
            if (sandbox?.workerId === workerId && sandbox.state === "running") await putToSleep(context, sandbox);
          });
        } finally {
          this.#hibernating.delete(id);
        }
      });
    }
    return running.length;
  }
}
