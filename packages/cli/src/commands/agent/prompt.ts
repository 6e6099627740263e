import { defineCommand } from "../../command.ts";
import { one, some } from "#arguments/inputs.ts";
import { promptOf } from "./agent-options.ts";

export const prompt = defineCommand({
  summary: "Send another prompt to an agent",
  description:
    "The agent answers after its earlier prompts. Follow it with 'agent attach'. A PROMPT of - is read from standard " +
    "input.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT"), prompt: some("PROMPT") },
  examples: [{ line: "agent prompt sb-1a2b3c4d 5f0d3e5d and now the linter", shows: "give an agent its next task" }],
  async run({ id, agent, prompt }, context) {
    const { agents } = await context.client();
    await agents.prompt(id, agent, await promptOf(prompt, "prompt", context), context.signal);
    await context.print(`sent the prompt to ${agent}`, { id: agent });
  },
});
