import type { EgressRules } from "@opensandbox/wire/egress.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** A sandbox to create. Absent properties: the server's default. */
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
  /** Absent: the whole internet. */
  readonly egress?: EgressRules | undefined;
  /** SHA-256 of the token that its previews require, hexadecimal. Absent: previews are open. */
  readonly previewTokenHash?: string | undefined;
  /** The guest's port that a port of this host forwards to. */
  readonly forwardedPort?: number | undefined;
  /** Deleted when others are hibernated: at the idle timeout and at the end of the server. */
  readonly ephemeral?: boolean;
  /** What its idle timeout does. Absent: it hibernates the sandbox. */
  readonly onTimeout?: "hibernate" | "kill" | undefined;
  /** Seconds after the create at which the sandbox is deleted, whatever it does. */
  readonly maxLifetimeSeconds?: number | undefined;
  /** Ids of secret stores; secrets of later ones take precedence. Absent: it uses no secrets. */
  readonly secretStores?: readonly string[] | undefined;
  /** The certificate authority that its guest trusts already, as a fork of a sandbox with secrets. */
  readonly authorityId?: string | undefined;
}

type OptionalOfNew = "egress" | "previewTokenHash" | "forwardedPort" | "secretStores" | "authorityId" | "onTimeout";

/** A sandbox as the control plane knows it. */
export interface Sandbox
  extends Required<Omit<NewSandbox, OptionalOfNew | "maxLifetimeSeconds">>, Pick<NewSandbox, OptionalOfNew> {
  readonly id: SandboxId;
  readonly organizationId: string;
  readonly state: SandboxState;
  readonly generation: number;
  /** Empty when no worker holds anything of it, such as while it is hibernated. */
  readonly workerId: string;
  /** Builds an image and is invisible to users. */
  readonly hidden: boolean;
  readonly idempotencyKey?: string | undefined;
  readonly createdAt: Date;
  readonly startedAt?: Date | undefined;
  readonly expiresAt?: Date | undefined;
  /** When it is deleted, whatever it does. */
  readonly deleteAt?: Date | undefined;
  readonly endedAt?: Date | undefined;
  /** Why it does not run, or why its last wake failed. */
  readonly endReason?: string | undefined;
  /** The checkpoint that it is a fork of. */
  readonly fromCheckpointId?: string | undefined;
  /** The sequence of the last patch of that checkpoint that was applied. */
  readonly lastPatchSequence: number;
  readonly patchError?: string | undefined;
  /** Set before the worker captures it and cleared after the wake from it has succeeded. */
  readonly hibernationSnapshotId?: SnapshotId | undefined;
  readonly hibernationSizeBytes?: number | undefined;
  /** How its machine last started. */
  readonly restoredFrom?: "memory" | "disk" | undefined;
  readonly restoredBecause?: string | undefined;
  /** The stored state that it continues from because its worker was lost, for people. Until its next hibernation. */
  readonly recoveredFrom?: string | undefined;
  /** The next call boots its disks: its machine ended while no server ran, or its guest reset. */
  readonly bootsOnUse: boolean;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
  readonly scalingLocked: boolean;
  /** Limit of processor time, in percent of one processor. Absent: as much as its vCPUs give. */
  readonly cpuPercent?: number | undefined;
  /** Limit of processes and threads. Absent: the guest agent's. */
  readonly maxPids?: number | undefined;
  readonly autoscale?: Autoscale | undefined;
  /** The port of this server that leads to {@link forwardedPort}. */
  readonly hostPort?: number | undefined;
}

/** The change that disables autoscale. */
export function withoutAutoscale({ autoscale }: Sandbox): Pick<Sandbox, "autoscale"> {
  return { autoscale: autoscale && { ...autoscale, enabled: false } };
}

/** The range of memory within which the load sets a sandbox's size. */
export interface Autoscale {
  readonly enabled: boolean;
  readonly minMemoryMib?: number | undefined;
  readonly maxMemoryMib?: number | undefined;
}
