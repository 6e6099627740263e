import { z } from "zod";
import type { Route } from "../../route.ts";
import { envs } from "../fields.ts";
import { memoryMb } from "./memory.ts";
import { Egress, egressFrom } from "./network.ts";
import { port, PreviewAuth } from "#public/guests/previews.ts";
import { SandboxReply, timeoutSeconds } from "./sandboxes.ts";

const nameMissing = "name is required";
const keepRule = "retentionPolicy.maxCount must be a whole number of at least 1";

const kind = z
  .enum(["full", "disk_only"], 'kind must be "full" or "disk_only"')
  .meta({ description: "`disk_only`: without memory, so that a fork boots. Default: full." });

const CreateCheckpointBody = z
  .object({
    name: z.string(nameMissing).trim().min(1, nameMissing).max(255, "name must be at most 255 characters"),
    kind: kind.optional(),
    promoteToFull: z.boolean().optional().meta({ description: "Stored, not used." }),
    retentionPolicy: z
      .object({
        mode: z.enum(["none", "delete_oldest"], 'retentionPolicy.mode must be "none" or "delete_oldest"'),
        maxCount: z.number(keepRule).int(keepRule).min(1, keepRule).optional(),
      })
      .optional()
      .meta({
        description:
          "`delete_oldest`: when this checkpoint is ready, the oldest of its kind beyond `maxCount` are deleted.",
      }),
  })
  .meta({ id: "CreateCheckpoint" });
type CreateCheckpointBody = z.infer<typeof CreateCheckpointBody>;

const CheckpointReply = z
  .object({
    id: z.string(),
    sandboxId: z.string(),
    orgId: z.string(),
    name: z.string(),
    sandboxConfig: z.object({
      templateID: z.string(),
      cpuCount: z.int(),
      memoryMB: z.int(),
      diskMB: z.int(),
      networkEnabled: z.boolean(),
    }),
    status: z.enum(["processing", "ready", "failed"]),
    sizeBytes: z.int().meta({ description: "Disk space that is not shared with other snapshots." }),
    isPublic: z.boolean().meta({ description: "Any organization may fork it." }),
    createdAt: z.iso.datetime(),
    errorMsg: z.string().optional(),
    failedAt: z.iso.datetime().optional(),
    kind,
    promoteToFull: z.boolean(),
  })
  .meta({ id: "Checkpoint" });
export type CheckpointReply = z.infer<typeof CheckpointReply>;

export const createCheckpoint: Route<CreateCheckpointBody, unknown, CheckpointReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/checkpoints",
  name: "createCheckpoint",
  summary: "Create a checkpoint of a running sandbox",
  description:
    "Answers at once with `processing`. The sandbox pauses briefly. A sandbox has at most 10 full and 100 disk_only " +
    "checkpoints; a failed one does not count, and its name is free again.",
  access: "key",
  body: CreateCheckpointBody,
  status: 201,
  reply: CheckpointReply,
};

export const listCheckpoints: Route<unknown, unknown, CheckpointReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/checkpoints",
  name: "listCheckpoints",
  summary: "List a sandbox's checkpoints, oldest first",
  description: "Checkpoints outlive their sandbox.",
  access: "key",
  status: 200,
  reply: z.array(CheckpointReply),
};

export const listAllCheckpoints: Route<unknown, unknown, CheckpointReply[]> = {
  method: "GET",
  path: "/api/checkpoints",
  name: "listAllCheckpoints",
  summary: "List the newest 1000 checkpoints of all sandboxes, deleted ones included",
  access: "key",
  status: 200,
  reply: z.array(CheckpointReply),
};

export const getCheckpoint: Route<unknown, unknown, CheckpointReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/checkpoints/:checkpointId",
  name: "getCheckpoint",
  summary: "Get a checkpoint",
  access: "key",
  status: 200,
  reply: CheckpointReply,
};

export const deleteCheckpoint: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id/checkpoints/:checkpointId",
  name: "deleteCheckpoint",
  summary: "Delete a checkpoint; its forks are not affected",
  access: "key",
  status: 204,
};

const RestoringReply = z
  .object({ sandboxId: z.string(), checkpointId: z.string(), status: z.literal("restoring") })
  .meta({ id: "Restoring" });
type RestoringReply = z.infer<typeof RestoringReply>;

export const restoreCheckpoint: Route<unknown, unknown, RestoringReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/checkpoints/:checkpointId/restore",
  name: "restoreCheckpoint",
  summary: "Restore a sandbox to one of its checkpoints, in place",
  description: "Answers when the restore has begun. Every other call to the sandbox waits for its end.",
  access: "key",
  status: 200,
  reply: RestoringReply,
};

const ForkBody = z
  .object({
    timeout: timeoutSeconds("timeout must be a whole number of seconds").optional(),
    envs: envs.optional(),
    metadata: z
      .record(z.string(), z.string())
      .optional()
      .meta({ description: "Takes precedence over the checkpoint's metadata." }),
    alias: z.string().max(255, "alias must be at most 255 characters").optional(),
    memoryMB: memoryMb.optional().meta({ description: "A size other than the checkpoint's makes the fork boot." }),
    networkEnabled: z.boolean().optional().meta({ description: "Absent: the checkpoint's setting." }),
    egress: Egress.optional().meta({ description: "Absent: the checkpoint's rules. Without lists: no rules." }),
    port: port.optional().meta({ description: "A port of the guest, which `hostPort` of the server forwards to." }),
    previewAuth: PreviewAuth.optional(),
    secretStore: z.string().optional().meta({
      description: "The name of a secret store, whose secrets take precedence over those of the checkpoint's store.",
    }),
  })
  .meta({ id: "Fork" });
type ForkBody = z.infer<typeof ForkBody>;

export const forkCheckpoint: Route<ForkBody, unknown, SandboxReply> = {
  method: "POST",
  path: "/api/sandboxes/from-checkpoint/:checkpointId",
  name: "forkCheckpoint",
  summary: "Create a sandbox from a checkpoint",
  description:
    "Waits up to 30 seconds for a checkpoint that is `processing`. Answers when the checkpoint's patches have run and " +
    "the sandbox accepts commands. A fork of another organization's public checkpoint does not inherit environment " +
    "variables and metadata. With an `Idempotency-Key` header, creates with the same key return the same sandbox for " +
    "24 hours.",
  access: "key",
  body: ForkBody,
  status: 201,
  reply: SandboxReply,
  otherReplies: { 200: { description: "The sandbox of an earlier create with the same key." } },
};

export const publishCheckpoint: Route<unknown, unknown, CheckpointReply> = {
  method: "POST",
  path: "/api/sandboxes/checkpoints/:checkpointId/publish",
  name: "publishCheckpoint",
  summary: "Allow every organization to fork a checkpoint, with everything in its memory and on its disks",
  access: "key",
  status: 200,
  reply: CheckpointReply,
};

export const unpublishCheckpoint: Route<unknown, unknown, CheckpointReply> = {
  method: "POST",
  path: "/api/sandboxes/checkpoints/:checkpointId/unpublish",
  name: "unpublishCheckpoint",
  summary: "Stop other organizations from forking a checkpoint",
  access: "key",
  status: 200,
  reply: CheckpointReply,
};

/** Translates a request into the project's own terms. */
export function newCheckpointFrom({
  name,
  kind = "full",
  promoteToFull = false,
  retentionPolicy,
}: CreateCheckpointBody) {
  const replaces = retentionPolicy?.mode === "delete_oldest";
  return {
    name,
    kind,
    promoteToFull,
    ...(replaces ? { keep: retentionPolicy.maxCount ?? Number.POSITIVE_INFINITY } : {}),
  };
}

/** Translates a request into the project's own terms. */
export function forkFrom(body: ForkBody) {
  const { timeout, envs = {}, metadata = {}, alias = "", memoryMB, networkEnabled, egress, port } = body;
  return {
    envs,
    metadata,
    alias,
    ...(networkEnabled === undefined ? {} : { networkEnabled }),
    ...(egress === undefined ? {} : { egress: egressFrom(egress) }),
    ...(port === undefined ? {} : { forwardedPort: port }),
    ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
    ...(memoryMB === undefined ? {} : { memoryMib: memoryMB }),
  };
}

/** The properties of a checkpoint that clients may see. */
interface CheckpointToShow {
  readonly id: string;
  readonly sandboxId: string;
  readonly organizationId: string;
  readonly name: string;
  readonly kind: "full" | "disk_only";
  readonly promoteToFull: boolean;
  readonly status: "processing" | "ready" | "failed";
  readonly sizeBytes: number;
  readonly isPublic: boolean;
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly networkEnabled: boolean;
  readonly createdAt: Date;
  readonly failedAt?: Date | undefined;
  readonly error?: string | undefined;
}

export function checkpointReplyOf(checkpoint: CheckpointToShow): CheckpointReply {
  return {
    id: checkpoint.id,
    sandboxId: checkpoint.sandboxId,
    orgId: checkpoint.organizationId,
    name: checkpoint.name,
    sandboxConfig: {
      templateID: checkpoint.image,
      cpuCount: checkpoint.vcpus,
      memoryMB: checkpoint.memoryMib,
      diskMB: checkpoint.workspaceMib,
      networkEnabled: checkpoint.networkEnabled,
    },
    status: checkpoint.status,
    sizeBytes: checkpoint.sizeBytes,
    isPublic: checkpoint.isPublic,
    createdAt: checkpoint.createdAt.toISOString(),
    ...(checkpoint.error === undefined ? {} : { errorMsg: checkpoint.error }),
    ...(checkpoint.failedAt === undefined ? {} : { failedAt: checkpoint.failedAt.toISOString() }),
    kind: checkpoint.kind,
    promoteToFull: checkpoint.promoteToFull,
  };
}
