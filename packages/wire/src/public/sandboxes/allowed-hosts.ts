import { z } from "zod";
import type { Route } from "../../route.ts";

const AllowedHostsReply = z
  .object({
    sandboxID: z.string(),
    egressAllowlist: z.array(z.string()),
    perSecretAllowedHosts: z.record(z.string(), z.array(z.string())),
  })
  .meta({ id: "AllowedHosts" });
type AllowedHostsReply = z.infer<typeof AllowedHostsReply>;

export const getAllowedHosts: Route<unknown, unknown, AllowedHostsReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/allowed-hosts",
  name: "getAllowedHosts",
  summary:
    "Get the hosts that a sandbox's secrets may be sent to; always empty, since secret stores are not implemented",
  access: "key",
  status: 200,
  reply: AllowedHostsReply,
};
