import type { EgressRules } from "@opensandbox/wire/egress.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";

/** A named restore point of a sandbox, as the control plane knows it. It stays when its sandbox is deleted. */
export interface Checkpoint {
  /** A UUID. */
  readonly id: string;
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly name: string;
  /** `disk_only`: the memory is not kept, and what starts from it boots. */
  readonly kind: CheckpointKind;
  readonly promoteToFull: boolean;
  readonly status: "processing" | "ready" | "failed";
  /** Named before the worker is asked to make it. Several checkpoints may have the same one. */
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;
  /** Every organization may fork it. */
  readonly isPublic: boolean;
  /** Belongs to an image; is not listed. */
  readonly hidden: boolean;
  /** Who makes it, as long as it is `processing`. */
  readonly workerId: string;
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly networkEnabled: boolean;
  readonly egress?: EgressRules | undefined;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  /** How far its sandbox had been patched by the checkpoint that it was forked from. */
  readonly lastPatchSequence: number;
  readonly createdAt: Date;
  readonly failedAt?: Date | undefined;
  readonly error?: string | undefined;
}

export type CheckpointKind = "full" | "disk_only";

/** A script that runs in every fork of a checkpoint, once, when it starts or wakes. */
export interface Patch {
  /** A UUID. */
  readonly id: string;
  readonly checkpointId: string;
  /** Rises with every patch of the same checkpoint. */
  readonly sequence: number;
  readonly script: string;
  readonly description: string;
  readonly createdAt: Date;
}
