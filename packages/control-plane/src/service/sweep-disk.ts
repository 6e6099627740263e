import { describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { overLimit, usedMib } from "#sandboxes/disk-limits.ts";
import { putAway } from "./sweep-sandboxes.ts";

/** Growth of a sandbox's files between two rounds that counts as writing; guests always write a little. */
const minGrowthBytes = 8 * 2 ** 20;

/**
 * Hibernates running sandboxes that still write although their organization is beyond its disk limit. A wake is refused
 * until the organization has deleted something.
 */
export class DiskSweep {
  readonly #context: SandboxContext;
  /** Bytes in the last round of the running sandboxes of organizations beyond their limit. */
  #last = new Map<SandboxId, number>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  async run(): Promise<void> {
    const context = this.#context;
    const running = Map.groupBy(
      (await context.stores.sandboxes.listRunning()).filter(({ workerId }) => context.placement.includes(workerId)),
      (each) => each.organizationId,
    );
    const measured = new Map<SandboxId, number>();
    for (const [organizationId, sandboxes] of running) {
      const { organizationDiskMib } = await limitsOf(context, organizationId);
      if (organizationDiskMib === undefined) continue;
      const used = await usedMib(context, organizationId);
      if (used <= organizationDiskMib) continue;
      for (const { id } of sandboxes) {
        const bytes = await context.worker.measureDisk({ sandboxes: [id], snapshots: [] });
        measured.set(id, bytes);
        if (bytes - (this.#last.get(id) ?? bytes) >= minGrowthBytes)
          this.#end(id, overLimit(used, organizationDiskMib));
      }
    }
    this.#last = measured;
  }

  #end(id: SandboxId, reason: string): void {
    const { operations, stores, log } = this.#context;
    operations.background.run("hibernating a sandbox beyond the disk limit", { sandbox: id }, () =>
      operations.gates.run(id, async () => {
        const sandbox = await stores.sandboxes.find(id);
        if (sandbox?.state !== "running") return;
        log("warn", "a sandbox still writes beyond its organization's disk limit", { sandbox: id, reason });
        try {
          await putAway(this.#context, sandbox, { reason });
        } catch (error) {
          log("error", "cannot hibernate a sandbox beyond the disk limit", { sandbox: id, ...describeError(error) });
        }
      }),
    );
  }
}
