import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  createCheckpoint,
  deleteCheckpoint,
  forkCheckpoint,
  getCheckpoint,
  listAllCheckpoints,
  listCheckpoints,
  publishCheckpoint,
  restoreCheckpoint,
  unpublishCheckpoint,
} from "@opensandbox/wire/public/sandboxes/checkpoints.ts";
import type { HttpClient } from "#transport/http.ts";
import type { Egress } from "./network.ts";
import type { SandboxInfo } from "./sandboxes.ts";
import { reachBody, sandboxOf } from "./sandboxes.ts";
import { wait } from "#transport/wait.ts";

/** A named instant of a sandbox, which it can be put back to and others can be made of. */
export interface Checkpoint {
  readonly id: string;
  readonly sandboxId: string;
  readonly name: string;
  readonly kind: "full" | "disk_only";
  readonly status: "processing" | "ready" | "failed";
  /** What it takes on the host beyond what it shares with others. */
  readonly sizeBytes: number;
  /** Every organization may fork it. */
  readonly isPublic: boolean;
  readonly createdAt: string;
  /** Why it failed. */
  readonly error?: string;
}

export interface CreateCheckpoint {
  /** Unique among those of the sandbox. */
  readonly name: string;
  /** `disk_only`: without the memory; what starts from it boots. Default: `full`. */
  readonly kind?: "full" | "disk_only";
}

export interface Fork {
  readonly envs?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly alias?: string;
  readonly idleTimeoutSeconds?: number;
  /** With another size than the checkpoint's it boots. */
  readonly memoryMib?: number;
  /** Absent: as the checkpoint's. */
  readonly networkEnabled?: boolean;
  /** Absent: as the checkpoint's. Without any list: no rules. */
  readonly egress?: Egress;
  /** A port of it that `hostPort` of the server is to lead to. */
  readonly port?: number;
  /** What its previews need, at least 16 characters; `auto`: the server makes one. */
  readonly previewToken?: string;
}

export interface CheckpointsClient {
  /** Resolves when it can be used. The sandbox stands still for a moment and goes on. */
  create(sandboxId: string, request: CreateCheckpoint, signal?: AbortSignal): Promise<Checkpoint>;
  /** Those of a sandbox, also of one that is deleted; without one, all. */
  list(sandboxId?: string, signal?: AbortSignal): Promise<readonly Checkpoint[]>;
  /** What was made of it goes on. */
  delete(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<void>;
  /** Puts the sandbox back, in place. Resolves when that has begun; calls to the sandbox wait for its end. */
  restore(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<void>;
  /** Another sandbox, alive, of that instant. Resolves when a command would work. */
  fork(checkpointId: string, request?: Fork, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Lets every organization fork it, or no other one any more. */
  publish(checkpointId: string, isPublic: boolean, signal?: AbortSignal): Promise<void>;
}

/** How often to ask whether a checkpoint is ready: most take a fraction of a second. */
const pollMs = 100;

export function checkpointsClient(http: HttpClient): CheckpointsClient {
  async function settled(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<Checkpoint> {
    const parameters = { id: sandboxId, checkpointId };
    for (;;) {
      const checkpoint = checkpointOf(await http.call(getCheckpoint, { parameters }, signal));
      if (checkpoint.status === "ready") return checkpoint;
      if (checkpoint.status === "failed") {
        const why = checkpoint.error ?? "no reason is known";
        throw new SandboxError("unavailable", `the checkpoint could not be made: ${why}`);
      }
      await wait(pollMs, signal);
    }
  }

  return {
    async create(sandboxId, request, signal) {
      const options = { parameters: { id: sandboxId }, body: { ...request } };
      const { id } = await http.call(createCheckpoint, options, signal);
      return await settled(sandboxId, id, signal);
    },
    async list(sandboxId, signal) {
      const found =
        sandboxId === undefined
          ? await http.call(listAllCheckpoints, {}, signal)
          : await http.call(listCheckpoints, { parameters: { id: sandboxId } }, signal);
      return found.map(checkpointOf);
    },
    async delete(sandboxId, checkpointId, signal) {
      await http.call(deleteCheckpoint, { parameters: { id: sandboxId, checkpointId } }, signal);
    },
    async restore(sandboxId, checkpointId, signal) {
      await http.call(restoreCheckpoint, { parameters: { id: sandboxId, checkpointId } }, signal);
    },
    async fork(checkpointId, { idleTimeoutSeconds, envs, metadata, alias, memoryMib, ...reach } = {}, signal) {
      const body = {
        ...reachBody(reach),
        ...(envs === undefined ? {} : { envs: { ...envs } }),
        ...(metadata === undefined ? {} : { metadata: { ...metadata } }),
        ...(alias === undefined ? {} : { alias }),
        ...(idleTimeoutSeconds === undefined ? {} : { timeout: idleTimeoutSeconds }),
        ...(memoryMib === undefined ? {} : { memoryMB: memoryMib }),
      };
      return sandboxOf(
        await http.call(forkCheckpoint, { parameters: { checkpointId }, body, idempotent: true }, signal),
      );
    },
    async publish(checkpointId, isPublic, signal) {
      const route = isPublic ? publishCheckpoint : unpublishCheckpoint;
      await http.call(route, { parameters: { checkpointId } }, signal);
    },
  };
}

function checkpointOf(reply: {
  readonly id: string;
  readonly sandboxId: string;
  readonly name: string;
  readonly kind: "full" | "disk_only";
  readonly status: "processing" | "ready" | "failed";
  readonly sizeBytes: number;
  readonly isPublic: boolean;
  readonly createdAt: string;
  readonly errorMsg?: string | undefined;
}): Checkpoint {
  const { id, sandboxId, name, kind, status, sizeBytes, isPublic, createdAt, errorMsg } = reply;
  const known = { id, sandboxId, name, kind, status, sizeBytes, isPublic, createdAt };
  return errorMsg === undefined ? known : { ...known, error: errorMsg };
}
