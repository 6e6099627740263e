import { defineCommand } from "../../command.ts";
import { flag, list, one } from "#arguments/inputs.ts";
import { egressOf } from "#commands/sandbox/sandbox-options.ts";
import { networkText } from "./show.ts";

export const set = defineCommand({
  summary: "Change what a sandbox may reach",
  description:
    "At once, also for connections that exist. Lists are separated by commas: domains, *.domains, IPv4 addresses and " +
    "ranges. An empty list of what is allowed allows nothing. The lists that are given replace both of before.",
  arguments: { id: one("SANDBOX") },
  options: {
    allow: list("all that may be reached"),
    deny: list("what may not be reached although it is allowed"),
    open: flag("no rules: everything on the internet"),
    on: flag("switch the network on"),
    off: flag("switch the network off"),
  },
  examples: [
    { line: "network set sb-1a2b3c4d --allow pypi.org,files.pythonhosted.org", shows: "Python packages only" },
    { line: "network set sb-1a2b3c4d --off", shows: "nothing at all" },
    { line: "network set sb-1a2b3c4d --on --open", shows: "the internet again" },
  ],
  check({ allow, deny, open, on, off }) {
    if (on && off) return "--on and --off exclude each other";
    if (open && (allow !== undefined || deny !== undefined)) return "--open is without --allow and --deny";
    const nothing = allow === undefined && deny === undefined && !open && !on && !off;
    return nothing ? "say what to change: --allow, --deny, --open, --on or --off" : undefined;
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
