import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List the agents of a sandbox",
  description: "Lists agents that run or ended within the last five minutes.",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "agent ls sb-1a2b3c4d", shows: "list the agents of a sandbox" }],
  async run({ id }, { client, print, signal }) {
    const { agents } = await client();
    const found = await agents.list(id, signal);
    const rows = found.map(({ id: agent, running, exitCode, startedAt }) => [
      agent,
      running ? "running" : `exited with ${exitCode ?? "?"}`,
      age(startedAt),
    ]);
    await print(rows.length === 0 ? "no agents" : table(["AGENT", "STATUS", "AGE"], rows), found);
  },
});
