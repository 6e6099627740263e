import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const interrupt = defineCommand({
  summary: "End what an agent does, and what it was asked besides",
  description: "The agent stays, with its conversation.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT") },
  examples: [{ line: "agent interrupt sb-1a2b3c4d 5f0d3e5d", shows: "stop it" }],
  async run({ id, agent }, { client, print, signal }) {
    const { agents } = await client();
    await agents.interrupt(id, agent, signal);
    await print(`interrupted ${agent}`, { id: agent });
  },
});
