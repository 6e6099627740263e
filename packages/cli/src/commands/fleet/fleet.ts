import { defineCommand, defineGroup } from "../../command.ts";

const init = defineCommand({
  summary: "Make the secrets of a new fleet on its server's host",
  description: `Stores a token in the data directory and prints it. The token holds the certificates and the secret of the fleet: its
holder can run anything on every worker. Start the server with OPENSANDBOX_MODE=server, and add workers with
'osb worker join'. Another 'osb fleet init' replaces the token, and every worker must join again.`,
  examples: [{ line: "fleet init > token", shows: "make a fleet, and store its token" }],
  async run(_input, { host, print, note }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const { initFleet } = await import("@opensandbox/server/fleet.ts");
    const { token, file } = await initFleet(readConfig(host.env));
    note(`the token is also in ${file}, which only this user can read`);
    await print(token, { token, file });
  },
});

export const fleet = defineGroup({ summary: "Make a fleet of several hosts", commands: { init } });
