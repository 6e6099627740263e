import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const log = defineCommand({
  summary: "List connections that a sandbox was refused within the last hour",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "network log sb-1a2b3c4d", shows: "list refused destinations, newest first" }],
  async run({ id }, { client, print, signal }) {
    const { network } = await client();
    const found = await network.log(id, signal);
    const rows = found.map(({ at, count, protocol, host = "", address = "", port, reason }) => [
      ...[age(at), String(count), protocol, host, port === undefined ? address : `${address}:${port}`],
      reason,
    ]);
    const head = ["LAST", "COUNT", "PROTOCOL", "NAME", "ADDRESS", "REASON"];
    await print(rows.length === 0 ? "no refused connections" : table(head, rows), found);
  },
});
