import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const interrupt = defineCommand({
  summary: "Stop an agent's current turn and drop its queued prompts",
  description: "The agent keeps running and keeps its conversation.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT") },
  examples: [{ line: "agent interrupt sb-1a2b3c4d 5f0d3e5d", shows: "stop an agent's current turn" }],
  async run({ id, agent }, { client, print, signal }) {
    const { agents } = await client();
    await agents.interrupt(id, agent, signal);
    await print(`interrupted ${agent}`, { id: agent });
  },
});
