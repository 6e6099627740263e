import { z } from "zod";
import type { Route } from "../../route.ts";
import { SandboxReply, timeoutSeconds } from "./sandboxes.ts";

const HibernatedReply = z
  .object({
    sandboxID: z.string(),
    status: z.literal("hibernated"),
    hibernationKey: z.string().meta({ description: "Names what it was saved in." }),
    sizeBytes: z.int().meta({ description: "What that takes beyond what it shares with others." }),
  })
  .meta({ id: "Hibernated" });
type HibernatedReply = z.infer<typeof HibernatedReply>;

export const hibernateSandbox: Route<unknown, unknown, HibernatedReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/hibernate",
  name: "hibernateSandbox",
  summary: "Save a sandbox with its memory and its processes, and end its machine",
  description: "It wakes by itself when it is used again.",
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
  summary: "Wake a hibernated sandbox; without a timeout it keeps the one it had",
  description:
    "`restoredFrom` says whether its memory is as it was. A sandbox whose memory and disks are damaged stays " +
    "hibernated; it never starts empty.",
  access: "key",
  body: WakeBody,
  status: 200,
  reply: SandboxReply,
};

export const rebootSandbox: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/reboot",
  name: "rebootSandbox",
  summary: "Start the guest's kernel again",
  access: "key",
  status: 204,
};

export const powerCycleSandbox: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/power-cycle",
  name: "powerCycleSandbox",
  summary: "Boot a sandbox's disks with a new machine, also when the old one has ended",
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
