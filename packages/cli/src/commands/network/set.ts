import { defineCommand } from "../../command.ts";
import { flag, list, one } from "#arguments/inputs.ts";
import { egressOf } from "#commands/sandbox/sandbox-options.ts";
import { networkText } from "./show.ts";

export const set = defineCommand({
  summary: "Change a sandbox's network policy",
  description:
    "The change applies at once, to open connections too. Lists are comma-separated: domains, *.domains, IPv4 addresses " +
    "and ranges. An empty --allow list permits nothing. Given lists replace both earlier lists.",
  arguments: { id: one("SANDBOX") },
  options: {
    allow: list("the only permitted destinations"),
    deny: list("forbidden destinations; overrides --allow"),
    open: flag("remove the rules: permit the whole internet"),
    on: flag("turn the network on"),
    off: flag("turn the network off"),
  },
  examples: [
    { line: "network set sb-1a2b3c4d --allow pypi.org,files.pythonhosted.org", shows: "permit only Python packages" },
    { line: "network set sb-1a2b3c4d --off", shows: "cut the sandbox off" },
    { line: "network set sb-1a2b3c4d --on --open", shows: "permit the whole internet again" },
  ],
  check({ allow, deny, open, on, off }) {
    if (on && off) return "--on and --off exclude each other";
    if (open && (allow !== undefined || deny !== undefined)) return "--open excludes --allow and --deny";
    const nothing = allow === undefined && deny === undefined && !open && !on && !off;
    return nothing ? "nothing to change: give --allow, --deny, --open, --on or --off" : undefined;
  },
  async run({ id, allow, deny, open, on, off }, { client, print, signal }) {
    const egress = egressOf({ allow, deny });
    const changesRules = open || allow !== undefined || deny !== undefined;
    const request = { ...(on || off ? { enabled: on } : {}), ...(changesRules ? { egress } : {}) };
    const { network } = await client();
    const changed = await network.set(id, request, signal);
    await print(networkText(changed), changed);
  },
});
