import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { agentOf, agentOptions } from "./agent-options.ts";

export const start = defineCommand({
  summary: "Start an agent that waits for prompts and print its id",
  description:
    "It goes on while the sandbox sleeps and when the server restarts. For a single prompt there is 'agent run'.",
  arguments: { id: one("SANDBOX") },
  options: agentOptions,
  examples: [{ line: "agent start --tools Read,Bash sb-1a2b3c4d", shows: "one to talk to" }],
  async run({ id, ...asked }, { client, print, signal }) {
    const { agents } = await client();
    const agent = await agents.start(id, agentOf(asked), signal);
    await print(agent.id, agent);
  },
});
