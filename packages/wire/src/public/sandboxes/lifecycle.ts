import { z } from "zod";
import type { Route } from "../../route.ts";
import { SandboxReply, timeoutSeconds } from "./sandboxes.ts";

const HibernatedReply = z
  .object({
    sandboxID: z.string(),
    status: z.literal("hibernated"),
    hibernationKey: z.string().meta({ description: "The id of its snapshot." }),
    sizeBytes: z.int().meta({ description: "Disk space of the snapshot that is not shared with others." }),
  })
  .meta({ id: "Hibernated" });
type HibernatedReply = z.infer<typeof HibernatedReply>;

export const hibernateSandbox: Route<unknown, unknown, HibernatedReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/hibernate",
  name: "hibernateSandbox",
  summary: "Save a sandbox's memory and disks and stop its machine",
  description: "The next call to the sandbox wakes it.",
  access: "key",
  status: 200,
  reply: HibernatedReply,
};

export const WakeBody = z
  .object({ timeout: timeoutSeconds("timeout must be a whole number of seconds").optional() })
  .meta({ id: "Wake" });
export type WakeBody = z.infer<typeof WakeBody>;

export const wakeSandbox: Route<WakeBody, unknown, SandboxReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/wake",
  name: "wakeSandbox",
  summary: "Wake a hibernated sandbox; without `timeout` its idle timeout stays",
  description:
    "`restoredFrom` says whether its memory was restored. A sandbox whose memory and disks are damaged stays " +
    "hibernated and never starts empty.",
  access: "key",
  body: WakeBody,
  status: 200,
  reply: SandboxReply,
};

export const MigrateBody = z
  .object({
    targetWorker: z.string().optional().meta({ description: "Absent: the best of the other workers." }),
  })
  .meta({ id: "Migrate" });
export type MigrateBody = z.infer<typeof MigrateBody>;

const MigratedReply = z
  .object({
    sandboxID: z.string(),
    sourceWorker: z.string(),
    targetWorker: z.string(),
    elapsedMs: z.int().meta({ description: "How long calls to the sandbox waited." }),
  })
  .meta({ id: "Migrated" });
type MigratedReply = z.infer<typeof MigratedReply>;

export const migrateSandbox: Route<MigrateBody, unknown, MigratedReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/migrate",
  name: "migrateSandbox",
  summary: "Move a running sandbox to another worker of the fleet, with its memory",
  description:
    "The sandbox is hibernated, its snapshot is stored in the fleet's object store, and another worker wakes it. Calls to " +
    "the sandbox wait meanwhile. A server with one worker answers 501.",
  access: "key",
  body: MigrateBody,
  status: 200,
  reply: MigratedReply,
};

export const rebootSandbox: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/reboot",
  name: "rebootSandbox",
  summary: "Restart the guest's kernel",
  access: "key",
  status: 204,
};

export const powerCycleSandbox: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/power-cycle",
  name: "powerCycleSandbox",
  summary: "Boot a sandbox's disks with a new machine, also after the old one has ended",
  access: "key",
  status: 204,
};

export function hibernatedReplyOf(sandbox: {
  readonly id: string;
  readonly hibernationSnapshotId?: string | undefined;
  readonly hibernationSizeBytes?: number | undefined;
}): HibernatedReply {
  return {
    sandboxID: sandbox.id,
    status: "hibernated",
    hibernationKey: sandbox.hibernationSnapshotId ?? "",
    sizeBytes: sandbox.hibernationSizeBytes ?? 0,
  };
}
