import { defineCommand } from "../../command.ts";
import { one, some } from "#arguments/inputs.ts";
import { promptOf } from "./agent-options.ts";

export const prompt = defineCommand({
  summary: "Ask an agent something more",
  description:
    "It answers when what it was asked before is done, to those who are attached. A PROMPT of - is standard input.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT"), prompt: some("PROMPT") },
  examples: [{ line: "agent prompt sb-1a2b3c4d 5f0d3e5d and now the linter", shows: "the next task" }],
  async run({ id, agent, prompt }, context) {
    const { agents } = await context.client();
    await agents.prompt(id, agent, await promptOf(prompt, "prompt", context), context.signal);
    await context.print(`asked ${agent}`, { id: agent });
  },
});
