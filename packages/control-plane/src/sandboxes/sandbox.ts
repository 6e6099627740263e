import type { EgressRules } from "@opensandbox/wire/egress.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** What is asked for. Absent: the server's default. */
export interface NewSandbox {
  readonly image: string;
  readonly vcpus?: number;
  readonly memoryMib?: number;
  readonly workspaceMib?: number;
  readonly idleTimeoutSeconds?: number;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly alias: string;
  readonly networkEnabled: boolean;
  /** What it may reach; absent: the internet. */
  readonly egress?: EgressRules | undefined;
  /** SHA-256 of the token that its previews need, hexadecimal; absent: none. */
  readonly previewTokenHash?: string | undefined;
  /** The port of the guest that a port of this server is to lead to. */
  readonly forwardedPort?: number | undefined;
  /** Is deleted where another one would be hibernated. */
  readonly ephemeral?: boolean;
}

type OptionalOfNew = "egress" | "previewTokenHash" | "forwardedPort";

/** A sandbox as the control plane knows it. */
export interface Sandbox extends Required<Omit<NewSandbox, OptionalOfNew>>, Pick<NewSandbox, OptionalOfNew> {
  readonly id: SandboxId;
  readonly organizationId: string;
  readonly state: SandboxState;
  readonly generation: number;
  /** Empty where no worker has anything of it, such as while it hibernates. */
  readonly workerId: string;
  /** Builds an image; no user sees it. */
  readonly hidden: boolean;
  readonly idempotencyKey?: string | undefined;
  readonly createdAt: Date;
  readonly startedAt?: Date | undefined;
  readonly expiresAt?: Date | undefined;
  readonly endedAt?: Date | undefined;
  /** Why it does not run, or could not be woken. */
  readonly endReason?: string | undefined;
  /** The checkpoint that it was forked from. */
  readonly fromCheckpointId?: string | undefined;
  /** The patches of that checkpoint up to this one have been applied. */
  readonly lastPatchSequence: number;
  readonly patchError?: string | undefined;
  /** Named before the worker is asked to make it, and until the wake from it has succeeded. */
  readonly hibernationSnapshotId?: SnapshotId | undefined;
  readonly hibernationSizeBytes?: number | undefined;
  /** How its machine was started last. */
  readonly restoredFrom?: "memory" | "disk" | undefined;
  readonly restoredBecause?: string | undefined;
  /** Its machine ended while no server ran, or its kernel was to start again: its disks are booted by the next use. */
  readonly bootsOnUse: boolean;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
  readonly scalingLocked: boolean;
  readonly autoscale?: Autoscale | undefined;
  /** The port of this server that leads to {@link forwardedPort}. */
  readonly hostPort?: number | undefined;
}

/** The change that ends it. */
export function withoutAutoscale({ autoscale }: Sandbox): Pick<Sandbox, "autoscale"> {
  return { autoscale: autoscale && { ...autoscale, enabled: false } };
}

/** Between which sizes a sandbox is to be kept by its load. */
export interface Autoscale {
  readonly enabled: boolean;
  readonly minMemoryMib?: number | undefined;
  readonly maxMemoryMib?: number | undefined;
}
