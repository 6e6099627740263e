import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxState } from "./sandbox-lifecycle.ts";

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
}

/** A sandbox as the control plane knows it. */
export interface Sandbox extends Required<NewSandbox> {
  readonly id: SandboxId;
  readonly organizationId: string;
  readonly state: SandboxState;
  readonly generation: number;
  readonly workerId: string;
  readonly idempotencyKey?: string | undefined;
  readonly createdAt: Date;
  readonly startedAt?: Date | undefined;
  readonly expiresAt?: Date | undefined;
  readonly endedAt?: Date | undefined;
  readonly endReason?: string | undefined;
}
