import { SandboxError } from "@opensandbox/wire/errors.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

const mib = 2 ** 20;

/**
 * Refuses an operation that takes disk (a create, a wake, a checkpoint) when a limit is reached. It measures the disk each
 * time, so no counter can drift. Running guests may exceed a limit until the disk sweep hibernates them.
 * @throws `quota_exceeded` when the organization has reached its limit, `no_capacity` when the server has
 */
export async function requireDisk(context: SandboxContext, organizationId: string): Promise<void> {
  const { organizationDiskMib, diskMib } = await limitsOf(context, organizationId);
  if (organizationDiskMib !== undefined) {
    const used = await usedMib(context, organizationId);
    if (used >= organizationDiskMib) throw new SandboxError("quota_exceeded", overLimit(used, organizationDiskMib));
  }
  if (diskMib !== undefined) {
    const used = await usedMib(context, undefined);
    if (used >= diskMib) {
      const message = `the sandboxes and snapshots of this server take ${used} of ${diskMib} MiB of disk: delete some`;
      throw new SandboxError("no_capacity", message, { resource: "disk" });
    }
  }
}

/** The reason of a refusal, or of a hibernation. */
export function overLimit(used: number, max: number): string {
  return (
    `disk limit of the organization reached: its sandboxes and snapshots take ${used} of ${max} MiB: delete sandboxes, ` +
    "checkpoints or images first"
  );
}

/** MiB on the disk, of one organization or of all. */
export async function usedMib({ stores, worker }: SandboxContext, organizationId: string | undefined): Promise<number> {
  return Math.ceil((await worker.measureDisk(await stores.sandboxes.owned(organizationId))) / mib);
}
