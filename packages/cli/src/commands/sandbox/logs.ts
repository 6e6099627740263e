import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const logs = defineCommand({
  summary: "Show what the machine of a sandbox has written to its console",
  description:
    "The kernel, and what starts the guest agent: why a machine ended, or ran out of memory. What a command has " +
    "written is shown by 'session logs'. A sandbox that sleeps has no console, and is not woken.",
  arguments: { id: one("SANDBOX") },
  options: { tail: whole("N", "only the last N lines") },
  examples: [
    { line: "logs sb-1a2b3c4d", shows: "all that is kept" },
    { line: "logs sb-1a2b3c4d --tail 20", shows: "the end of it" },
  ],
  async run({ id, tail }, { client, print, signal }) {
    const { sandboxes } = await client();
    const lines = (await sandboxes.console(id, signal)).trimEnd().split(/\r*\n/);
    const shown = tail === undefined ? lines : lines.slice(Math.max(0, lines.length - tail));
    await print(shown.join("\n"), { sandbox: id, lines: shown });
  },
});
