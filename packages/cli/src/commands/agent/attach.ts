import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { tellEvent } from "./tell-event.ts";

export const attach = defineCommand({
  summary: "Hear an agent from what is kept of what it has told on",
  description: "As 'agent run' shows it, until the agent ends. Ctrl-C leaves it running.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT") },
  examples: [
    { line: "agent attach sb-1a2b3c4d 5f0d3e5d", shows: "what it says and does" },
    { line: "agent attach --json sb-1a2b3c4d 5f0d3e5d", shows: "its events, a line each" },
  ],
  async run({ id, agent }, context) {
    const { agents } = await context.client();
    const attached = await agents.attach(id, agent, context.signal);
    for await (const event of attached.events) await tellEvent(event, context);
    return (await attached.exitCode) === 0 ? 0 : 1;
  },
});
