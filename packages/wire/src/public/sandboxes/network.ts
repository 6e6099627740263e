import { z } from "zod";
import { type EgressRules, type NetworkPolicy, parseEgress } from "../../egress.ts";
import type { Route } from "../../route.ts";

const most = 256;
const targets = z.array(z.string()).max(most, `egress: a list has at most ${most} entries`);

/** Parsed to see whether they can be understood; they stay as they were written. */
export const Egress = z
  // A misspelt list would be no list, which is the internet.
  .strictObject({
    allow: targets.optional().meta({
      description:
        "All that may be reached: domains, *.domains (names below it), IPv4 addresses and ranges such as " +
        "203.0.113.0/24. Absent: everything on the internet. Empty: nothing.",
    }),
    deny: targets.optional().meta({ description: "What may not be reached although it is allowed." }),
  })
  .superRefine((rules, context) => {
    try {
      parseEgress(rules);
    } catch (error) {
      context.addIssue({ code: "custom", message: error instanceof Error ? error.message : String(error) });
    }
  })
  .meta({
    id: "Egress",
    description:
      "Private, link-local and reserved addresses, this host and other sandboxes are never reached. Where names decide, " +
      "HTTP/3 and DNS over other servers do not pass.",
  });

export const NetworkBody = z
  .object({
    networkEnabled: z.boolean().optional().meta({ description: "Absent: as it is." }),
    egress: Egress.optional().meta({ description: "Absent: as it is. Without any list: no rules." }),
  })
  .refine(
    ({ networkEnabled, egress }) => networkEnabled !== undefined || egress !== undefined,
    "networkEnabled or egress is required",
  )
  .meta({ id: "SetNetwork" });
export type NetworkBody = z.infer<typeof NetworkBody>;

export const NetworkReply = z
  .object({
    sandboxID: z.string(),
    networkEnabled: z.boolean(),
    egress: Egress.optional(),
    notEnforced: z
      .array(z.string())
      .optional()
      .meta({ description: "What of this does not hold on this host, in words. Absent: all of it holds." }),
  })
  .meta({ id: "Network" });
export type NetworkReply = z.infer<typeof NetworkReply>;

export const getNetwork: Route<unknown, unknown, NetworkReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/network",
  name: "getNetwork",
  summary: "Get what a sandbox may reach",
  access: "key",
  status: 200,
  reply: NetworkReply,
};

export const setNetwork: Route<NetworkBody, unknown, NetworkReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/network",
  name: "setNetwork",
  summary: "Change what a sandbox may reach, at once, also for connections that exist",
  access: "key",
  body: NetworkBody,
  status: 200,
  reply: NetworkReply,
};

const NetworkLogReply = z
  .array(
    z.object({
      at: z.iso.datetime().meta({ description: "The last time." }),
      count: z.int().meta({ description: "How often within the last hour." }),
      protocol: z.enum(["tcp", "udp", "icmp", "dns", "tls", "http"]),
      host: z.string().optional().meta({ description: "The name that was asked for." }),
      address: z.string().optional(),
      port: z.int().optional(),
      reason: z.string(),
    }),
  )
  .meta({ id: "NetworkLog" });
type NetworkLogReply = z.infer<typeof NetworkLogReply>;

export const getNetworkLog: Route<unknown, unknown, NetworkLogReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/network/log",
  name: "getNetworkLog",
  summary: "List what a sandbox was refused within the last hour, the newest first",
  description: "Of a sandbox that does not run there is none. It is not woken.",
  access: "key",
  status: 200,
  reply: NetworkLogReply,
};

/** The policy that is asked for, where it is now `present`. */
export function networkPolicyFrom({ networkEnabled, egress }: NetworkBody, present: NetworkPolicy): NetworkPolicy {
  const rules = egress === undefined ? present.egress : egressFrom(egress);
  return { enabled: networkEnabled ?? present.enabled, ...(rules === undefined ? {} : { egress: rules }) };
}

/** Rules without any list are none. */
export function egressFrom(egress: EgressRules): EgressRules | undefined {
  return egress.allow === undefined && egress.deny === undefined ? undefined : egress;
}

export function networkReplyOf(
  { id, networkEnabled, egress }: { id: string; networkEnabled: boolean; egress?: NetworkPolicy["egress"] },
  notEnforced: readonly string[] | undefined,
): NetworkReply {
  return {
    sandboxID: id,
    networkEnabled,
    ...(egress === undefined ? {} : { egress: writableEgress(egress) }),
    ...(notEnforced === undefined ? {} : { notEnforced: [...notEnforced] }),
  };
}

/** As JSON has it. */
export function writableEgress({
  allow,
  deny,
}: {
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
}): { allow?: string[]; deny?: string[] } {
  return {
    ...(allow === undefined ? {} : { allow: [...allow] }),
    ...(deny === undefined ? {} : { deny: [...deny] }),
  };
}
