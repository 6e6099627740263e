import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** A start for which a worker is chosen. */
export interface Start extends Pick<Sandbox, "id" | "image" | "vcpus" | "memoryMib"> {
  /** The snapshot that it starts from. Absent: its image. */
  readonly snapshotId?: SnapshotId | undefined;
  /** It leaves one worker, for another one or for any. */
  readonly move?: { readonly from: string; readonly to?: string | undefined } | undefined;
}

/** A worker, for an operator. */
export interface WorkerReport {
  readonly id: string;
  readonly state: "up" | "silent";
  readonly cordoned: boolean;
  readonly draining: boolean;
  readonly seenAt?: string;
  readonly hypervisor: string;
  readonly cpuModel?: string;
  readonly freeMemoryMib?: number;
  readonly totalMemoryMib?: number;
  readonly freeDiskPercent?: number;
  /** Sandboxes that run on it. */
  readonly sandboxes: number;
}

/** The workers that this control plane uses, and the choice among them. */
export interface Placement {
  /** Whether the sandboxes of the worker are used through this control plane. */
  includes(workerId: string): boolean;
  /** The worker that has the machine, disks or leftovers of a sandbox. Undefined: no worker of this control plane. */
  holderOf(sandbox: Pick<Sandbox, "workerId">): string | undefined;
  /**
   * Chooses the worker of a start. Of a move without a snapshot: the worker that could fetch one.
   * @throws `no_capacity` when no worker has room, `unavailable` when the one with the snapshot does not answer
   */
  choose(start: Start): Promise<string>;
  /** The workers of a fleet, for an operator. */
  report?(): Promise<readonly WorkerReport[]>;
}

/**
 * The placement of a control plane with one worker. That worker may have leftovers of a sandbox that belongs to no
 * worker.
 */
export function onlyWorker({ id }: Pick<Worker, "id">): Placement {
  return {
    includes: (workerId) => workerId === id,
    holderOf: ({ workerId }) => (workerId === id || workerId === "" ? id : undefined),
    async choose({ move }) {
      if (move === undefined) return await Promise.resolve(id);
      throw new SandboxError(
        "not_supported",
        "a sandbox moves between the workers of a fleet, and this server has one",
      );
    },
  };
}
