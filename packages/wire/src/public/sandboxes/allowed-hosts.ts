import { z } from "zod";
import type { Route } from "../../route.ts";

const AllowedHostsReply = z
  .object({
    sandboxID: z.string(),
    secretStore: z.string().optional().meta({ description: "The name of its secret store." }),
    baseSecretStore: z.string().optional().meta({
      description: "The name of the store that it inherited as a fork, below its own.",
    }),
    egressAllowlist: z.array(z.string()),
    perSecretAllowedHosts: z.record(z.string(), z.array(z.string())),
  })
  .meta({ id: "AllowedHosts" });
type AllowedHostsReply = z.infer<typeof AllowedHostsReply>;

export const getAllowedHosts: Route<unknown, unknown, AllowedHostsReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/allowed-hosts",
  name: "getAllowedHosts",
  summary: "Get the hosts that a sandbox's secrets may be sent to",
  access: "key",
  status: 200,
  reply: AllowedHostsReply,
};

/** @param stores the stores of the sandbox; secrets of later ones take precedence */
export function allowedHostsReplyOf(
  id: string,
  stores: readonly {
    readonly name: string;
    readonly hosts: readonly string[];
    readonly secrets: readonly { readonly name: string; readonly hosts: readonly string[] }[];
  }[],
): AllowedHostsReply {
  const [own, base] = stores.toReversed();
  return {
    sandboxID: id,
    ...(own === undefined ? {} : { secretStore: own.name }),
    ...(base === undefined ? {} : { baseSecretStore: base.name }),
    egressAllowlist: [...new Set(stores.flatMap(({ hosts }) => hosts))],
    perSecretAllowedHosts: Object.fromEntries(
      stores.flatMap(({ secrets }) => secrets.map(({ name, hosts }) => [name, [...hosts]])),
    ),
  };
}
