import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const logs = defineCommand({
  summary: "Show the console output of a sandbox's machine",
  description:
    "Shows messages of the guest's kernel and of its start, such as why a machine crashed or ran out of memory. For the " +
    "output of a command, use 'session logs'. A hibernated sandbox has no console; this command does not wake it. Control " +
    "characters are shown as text.",
  arguments: { id: one("SANDBOX") },
  options: { tail: whole("N", "only the last N lines") },
  examples: [
    { line: "logs sb-1a2b3c4d", shows: "show all kept output" },
    { line: "logs sb-1a2b3c4d --tail 20", shows: "show the last 20 lines" },
  ],
  async run({ id, tail }, { client, print, signal }) {
    const { sandboxes } = await client();
    const lines = (await sandboxes.console(id, signal)).trimEnd().split(/\r*\n/);
    const shown = tail === undefined ? lines : lines.slice(Math.max(0, lines.length - tail));
    await print(shown.join("\n"), { sandbox: id, lines: shown });
  },
});
