import { z } from "zod";
import { type EgressRules, type NetworkPolicy, parseEgress } from "../../egress.ts";
import { parseHeaderRules } from "../../header-rules.ts";
import type { Route } from "../../route.ts";

const maxTargets = 256;
const targets = z.array(z.string()).max(maxTargets, `egress: a list has at most ${maxTargets} entries`);

/** Validated, and stored as written. */
export const Egress = z
  // The schema is strict, because a misspelt list would count as an absent one, which allows the whole internet.
  .strictObject({
    allow: targets.optional().meta({
      description:
        "The destinations to allow: domains, *.domains (names below one), IPv4 addresses and ranges such as " +
        "203.0.113.0/24. Absent: the whole internet. Empty: nothing.",
    }),
    deny: targets.optional().meta({ description: "Destinations to deny, in precedence over `allow`." }),
    headers: z
      .record(z.string(), z.record(z.string(), z.string()))
      .optional()
      .meta({
        description:
          "Headers that HTTPS requests get outside the sandbox, by host: a name, or *.name for the names below it. They " +
          "replace headers of the same names. They are stored and shown as written: a secret belongs into a secret " +
          "store, whose sealed texts a value may contain. The sandbox must have been created with headers or with a " +
          "secret store.",
      }),
  })
  .superRefine((rules, context) => {
    try {
      parseEgress(rules);
      parseHeaderRules(rules.headers ?? {});
    } catch (error) {
      context.addIssue({ code: "custom", message: error instanceof Error ? error.message : String(error) });
    }
  })
  .meta({
    id: "Egress",
    description:
      "Private, link-local and reserved addresses, the host and other sandboxes are always unreachable. When rules name " +
      "domains, HTTP/3 and other DNS servers are blocked.",
  });

export const NetworkBody = z
  .object({
    networkEnabled: z.boolean().optional().meta({ description: "Absent: unchanged." }),
    egress: Egress.optional().meta({
      description:
        "Absent: unchanged. Lists without `headers` leave the headers, and `headers` alone leave the lists. An empty " +
        "object: no rules.",
    }),
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
    notEnforced: z.array(z.string()).optional().meta({
      description: "The parts of the policy that this host cannot enforce, in words. Absent: all of it is enforced.",
    }),
  })
  .meta({ id: "Network" });
export type NetworkReply = z.infer<typeof NetworkReply>;

export const getNetwork: Route<unknown, unknown, NetworkReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/network",
  name: "getNetwork",
  summary: "Get the network policy of a sandbox",
  access: "key",
  status: 200,
  reply: NetworkReply,
};

export const setNetwork: Route<NetworkBody, unknown, NetworkReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/network",
  name: "setNetwork",
  summary: "Change the network policy of a sandbox, at once and for existing connections too",
  access: "key",
  body: NetworkBody,
  status: 200,
  reply: NetworkReply,
};

const NetworkLogReply = z
  .array(
    z.object({
      at: z.iso.datetime().meta({ description: "The time of the last refusal." }),
      count: z.int().meta({ description: "Refusals within the last hour." }),
      protocol: z.enum(["tcp", "udp", "icmp", "dns", "tls", "http"]),
      host: z.string().optional().meta({ description: "The name that the sandbox asked for." }),
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
  summary: "List the connections that a sandbox was refused within the last hour, newest first",
  description: "Empty for a sandbox that does not run, which is not woken.",
  access: "key",
  status: 200,
  reply: NetworkLogReply,
};

/** The policy after a change of the `present` one. */
export function networkPolicyFrom({ networkEnabled, egress }: NetworkBody, present: NetworkPolicy): NetworkPolicy {
  const rules = egress === undefined ? present.egress : egressAfter(egress, present.egress);
  return { enabled: networkEnabled ?? present.enabled, ...(rules === undefined ? {} : { egress: rules }) };
}

/** A change names lists, headers, or both; the other part stays. */
function egressAfter(change: EgressRules, present: EgressRules = {}): EgressRules | undefined {
  const hasLists = change.allow !== undefined || change.deny !== undefined;
  if (hasLists === (change.headers !== undefined)) return egressFrom(change);
  return egressFrom(hasLists ? { ...change, headers: present.headers } : { ...present, headers: change.headers });
}

/** The rules, or undefined when there are none. */
export function egressFrom({ allow, deny, headers = {} }: EgressRules): EgressRules | undefined {
  const hasHeaders = Object.keys(headers).length > 0;
  if (allow === undefined && deny === undefined && !hasHeaders) return undefined;
  return {
    ...(allow === undefined ? {} : { allow }),
    ...(deny === undefined ? {} : { deny }),
    ...(hasHeaders ? { headers } : {}),
  };
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

/** A mutable copy without absent parts, for JSON. */
export function writableEgress({ allow, deny, headers }: EgressRules): {
  allow?: string[];
  deny?: string[];
  headers?: Record<string, Record<string, string>>;
} {
  return {
    ...(allow === undefined ? {} : { allow: [...allow] }),
    ...(deny === undefined ? {} : { deny: [...deny] }),
    ...(headers === undefined
      ? {}
      : { headers: Object.fromEntries(Object.entries(headers).map(([host, own]) => [host, { ...own }])) }),
  };
}
