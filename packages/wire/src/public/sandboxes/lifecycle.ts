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
