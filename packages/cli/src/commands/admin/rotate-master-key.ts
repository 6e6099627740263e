import { defineCommand } from "../../command.ts";

export const rotateMasterKey = defineCommand({
  summary: "Add a new master key for secrets; the next start of the server encrypts them with it",
  description: `The master key encrypts the values of secret stores in the database. The file master-key of the data directory keeps
the earlier keys after the new one: copies and backups of the database that were made before need them. Remove a line
when no such copy is left. A key in OPENSANDBOX_MASTER_KEY is replaced there: write NEW,OLD and restart the server.`,
  examples: [{ line: "admin rotate-master-key", shows: "add a key, then restart the server" }],
  async run(_input, { host, print }) {
    const { readConfig, rotateMasterKey: rotate } = await import("@opensandbox/server");
    const file = await rotate(readConfig(host.env));
    await print(`added a master key to ${file}: restart the server, which encrypts every secret with it`, { file });
  },
});
