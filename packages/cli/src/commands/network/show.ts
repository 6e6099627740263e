import type { Network } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const show = defineCommand({
  summary: "Show a sandbox's network policy",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "network show sb-1a2b3c4d", shows: "show whether the network is on, and the rules" }],
  async run({ id }, { client, print, signal }) {
    const { network } = await client();
    const found = await network.get(id, signal);
    await print(networkText(found), found);
  },
});

/** The policy as text for people. */
export function networkText({ enabled, egress, notEnforced }: Network): string {
  const listed = (name: string, entries: readonly string[] | undefined): string[] =>
    entries === undefined ? [] : [`${name}: ${entries.length === 0 ? "nothing" : entries.join(", ")}`];
  return [
    enabled ? "on" : "off",
    ...listed("allow", egress?.allow),
    ...listed("deny", egress?.deny),
    ...Object.entries(egress?.headers ?? {}).flatMap(([host, headers]) =>
      Object.entries(headers).map(([name, value]) => `header for ${host}: ${name}: ${value}`),
    ),
    ...notEnforced.map((what) => `on this host: ${what}`),
  ].join("\n");
}
