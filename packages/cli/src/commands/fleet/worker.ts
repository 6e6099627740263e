import { defineCommand, defineGroup } from "../../command.ts";
import { one, text } from "#arguments/inputs.ts";

const join = defineCommand({
  summary: "Make this host a worker of a fleet",
  description: `Asks the fleet's server at URL whether it accepts the token, and stores both in the data directory. Then start the
worker with OPENSANDBOX_MODE=worker. The server must reach it: OPENSANDBOX_FLEET_ADDRESS is the address that the worker
gives, which is this host's name and OPENSANDBOX_FLEET_PORT by default.

The token comes from 'osb fleet init'. Without --token it is read from OPENSANDBOX_FLEET_TOKEN.`,
  arguments: { url: one("URL") },
  options: { token: text("TOKEN", "the token of the fleet (OPENSANDBOX_FLEET_TOKEN)") },
  examples: [
    {
      line: 'worker join https://10.0.0.1:8443 --token "$(cat token)"',
      shows: "join the fleet of the server at 10.0.0.1",
    },
  ],
  check: ({ url }) => (/^https:\/\/./.test(url) ? undefined : "URL must begin with https://"),
  async run({ url, token }, { host, print, signal }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const { joinFleet } = await import("@opensandbox/server/fleet.ts");
    const config = readConfig(host.env);
    await joinFleet(config, { url, token: token ?? config.fleetToken ?? "" }, signal);
    await print(`joined the fleet of ${url}: start the worker with OPENSANDBOX_MODE=worker ${host.program} up`, {
      url,
    });
  },
});

export const worker = defineGroup({ summary: "Make this host a worker of a fleet", commands: { join } });
