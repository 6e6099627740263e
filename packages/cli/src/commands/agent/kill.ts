import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const kill = defineCommand({
  summary: "Send a signal to an agent and its child processes",
  arguments: { id: one("SANDBOX"), agent: one("AGENT") },
  options: { signal: whole("NUMBER", "the signal's number (default: 9)") },
  examples: [{ line: "agent kill sb-1a2b3c4d 5f0d3e5d", shows: "kill an agent" }],
  async run({ id, agent, signal: number }, { client, print, signal }) {
    const { agents } = await client();
    await agents.kill(id, agent, number, signal);
    await print(`sent signal ${number ?? 9} to ${agent}`, { id: agent, signal: number ?? 9 });
  },
});
