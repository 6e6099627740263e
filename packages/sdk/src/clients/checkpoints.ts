import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  type CheckpointReply,
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
import { networkBody, sandboxOf } from "./sandboxes.ts";
import { wait } from "#transport/wait.ts";

/** A named restore point of a sandbox. The sandbox can be restored to it, and others can be forked from it. */
export interface Checkpoint {
  readonly id: string;
  readonly sandboxId: string;
  readonly name: string;
  readonly kind: "full" | "disk_only";
  readonly status: "processing" | "ready" | "failed";
  /** Disk space on the host that no other checkpoint shares. */
  readonly sizeBytes: number;
  /** Every organization may fork the checkpoint. */
  readonly isPublic: boolean;
  readonly createdAt: string;
  /** Why the checkpoint failed. */
  readonly error?: string;
}

export interface CreateCheckpoint {
  /** Unique within the sandbox. */
  readonly name: string;
  /** `disk_only`: without memory, so that a sandbox started from it boots. Default: `full`. */
  readonly kind?: "full" | "disk_only";
}

export interface Fork {
  readonly envs?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly alias?: string;
  readonly idleTimeoutSeconds?: number;
  /** A size other than the checkpoint's makes the fork boot instead of resume. */
  readonly memoryMib?: number;
  /** Default: as in the checkpoint. */
  readonly networkEnabled?: boolean;
  /** Default: as in the checkpoint. An object without lists: no rules. */
  readonly egress?: Egress;
  /** A port of the sandbox to publish as `hostPort` of the server. */
  readonly port?: number;
  /** The token that previews require, at least 16 characters. `auto`: the server generates one. */
  readonly previewToken?: string;
  /** The name of a secret store, whose secrets take precedence over those of the checkpoint's store. */
  readonly secretStore?: string;
}

export interface CheckpointsClient {
  /** Creates a checkpoint of a running sandbox, which pauses for a moment. Resolves when the checkpoint is ready. */
  create(sandboxId: string, request: CreateCheckpoint, signal?: AbortSignal): Promise<Checkpoint>;
  /** The checkpoints of a sandbox, even of a deleted one; without an id, all checkpoints. */
  list(sandboxId?: string, signal?: AbortSignal): Promise<readonly Checkpoint[]>;
  /** Deletes a checkpoint. Sandboxes forked from it are unaffected. */
  delete(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<void>;
  /** Restores a sandbox in place. Resolves when the restore has started; later calls to the sandbox wait for its end. */
  restore(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<void>;
  /** Creates a sandbox from a checkpoint. Resolves when commands can run in it. */
  fork(checkpointId: string, request?: Fork, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Allows every organization to fork the checkpoint, or only its own. */
  publish(checkpointId: string, isPublic: boolean, signal?: AbortSignal): Promise<void>;
}

/** Most checkpoints are ready within a fraction of a second. */
const pollMs = 100;

export function checkpointsClient(http: HttpClient): CheckpointsClient {
  async function whenReady(sandboxId: string, checkpointId: string, signal?: AbortSignal): Promise<Checkpoint> {
    const parameters = { id: sandboxId, checkpointId };
    for (;;) {
      const checkpoint = checkpointOf(await http.call(getCheckpoint, { parameters }, signal));
      if (checkpoint.status === "ready") return checkpoint;
      if (checkpoint.status === "failed") {
        const why = checkpoint.error ?? "the server gives no reason";
        throw new SandboxError("unavailable", `checkpoint ${checkpoint.name} failed: ${why}`);
      }
      await wait(pollMs, signal);
    }
  }

  return {
    async create(sandboxId, request, signal) {
      const options = { parameters: { id: sandboxId }, body: { ...request } };
      const { id } = await http.call(createCheckpoint, options, signal);
      return await whenReady(sandboxId, id, signal);
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
    async fork(checkpointId, { idleTimeoutSeconds, envs, metadata, alias, memoryMib, ...network } = {}, signal) {
      const body = {
        ...networkBody(network),
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

function checkpointOf(reply: CheckpointReply): Checkpoint {
  const { id, sandboxId, name, kind, status, sizeBytes, isPublic, createdAt, errorMsg } = reply;
  const known = { id, sandboxId, name, kind, status, sizeBytes, isPublic, createdAt };
  return errorMsg === undefined ? known : { ...known, error: errorMsg };
}
