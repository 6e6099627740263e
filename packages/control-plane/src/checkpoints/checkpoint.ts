import type { EgressRules } from "@opensandbox/wire/egress.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";

/** A named restore point of a sandbox. It outlives the sandbox. */
export interface Checkpoint {
  /** A UUID. */
  readonly id: string;
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly name: string;
  /** `disk_only`: without memory, so a fork boots. */
  readonly kind: CheckpointKind;
  readonly promoteToFull: boolean;
  readonly status: "processing" | "ready" | "failed";
  /** Set before the worker captures it. Several checkpoints may share one snapshot. */
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;
  /** Any organization may fork it. */
  readonly isPublic: boolean;
  /** Belongs to an image and is not listed. */
  readonly hidden: boolean;
  /** The worker that captures it while it is `processing`. */
  readonly workerId: string;
  /** The server that makes it while it is `processing`, when several servers use the rows. */
  readonly serverId?: string | undefined;
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly networkEnabled: boolean;
  readonly egress?: EgressRules | undefined;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  /** If its sandbox is a fork: the last patch of the forked checkpoint that the sandbox had run. */
  readonly lastPatchSequence: number;
  readonly createdAt: Date;
  readonly failedAt?: Date | undefined;
  readonly error?: string | undefined;
  /** Those of its sandbox. */
  readonly secretStores?: readonly string[] | undefined;
  readonly authorityId?: string | undefined;
}

export type CheckpointKind = "full" | "disk_only";

/** A script that runs once in every fork of a checkpoint, when the fork starts or wakes. */
export interface Patch {
  /** A UUID. */
  readonly id: string;
  readonly checkpointId: string;
  /** Rises with each patch of a checkpoint and is never reused. */
  readonly sequence: number;
  readonly script: string;
  readonly description: string;
  readonly createdAt: Date;
}
