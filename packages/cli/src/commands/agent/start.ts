import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { agentOf, agentOptions } from "./agent-options.ts";

export const start = defineCommand({
  summary: "Start an agent that waits for prompts, and print its id",
  description:
    "The agent survives hibernation of the sandbox and restarts of the server. For a single prompt, use 'agent run'.",
  arguments: { id: one("SANDBOX") },
  options: agentOptions,
  examples: [{ line: "agent start --tools Read,Bash sb-1a2b3c4d", shows: "start an agent with two tools" }],
  async run({ id, ...asked }, { client, print, signal }) {
    const { agents } = await client();
    const agent = await agents.start(id, agentOf(asked), signal);
    await print(agent.id, agent);
  },
});
