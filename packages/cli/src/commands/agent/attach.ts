import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { printEvent } from "./print-event.ts";

export const attach = defineCommand({
  summary: "Show an agent's kept events, then new ones",
  description: "Shows events as 'agent run' does, until the agent ends. Ctrl-C leaves the agent running.",
  arguments: { id: one("SANDBOX"), agent: one("AGENT") },
  examples: [
    { line: "agent attach sb-1a2b3c4d 5f0d3e5d", shows: "follow an agent" },
    { line: "agent attach --json sb-1a2b3c4d 5f0d3e5d", shows: "follow it as JSON, one event per line" },
  ],
  async run({ id, agent }, context) {
    const { agents } = await context.client();
    const attached = await agents.attach(id, agent, context.signal);
    for await (const event of attached.events) await printEvent(event, context);
    return (await attached.exitCode) === 0 ? 0 : 1;
  },
});
