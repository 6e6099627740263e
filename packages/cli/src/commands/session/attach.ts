import { passThrough } from "#commands/exec/command-output.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const attach = defineCommand({
  summary: "Show a session's kept output, then new output",
  description: "Exits with the command's code. Ctrl-C leaves the command running.",
  arguments: { id: one("SANDBOX"), session: one("SESSION") },
  examples: [{ line: "session attach sb-1a2b3c4d 5f0d3e5d", shows: "follow a session until it ends" }],
  async run({ id, session }, { host, client, signal }) {
    const { sessions } = await client();
    const attached = await sessions.attach(id, session, signal);
    const output = passThrough(host);
    for await (const { pipe, bytes } of attached.output) await output.write(pipe, bytes, signal);
    const exitCode = await attached.exitCode;
    return exitCode < 0 ? 1 : exitCode;
  },
});
