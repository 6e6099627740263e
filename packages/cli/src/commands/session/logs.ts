import { collectOutput, passThrough } from "#commands/exec/command-output.ts";
import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const logs = defineCommand({
  summary: "Show a session's kept output",
  description:
    "About 1 MiB is kept, until five minutes after the session's end. Standard output and standard error stay apart.",
  arguments: { id: one("SANDBOX"), session: one("SESSION") },
  options: { follow: flag("also show new output, until the command ends", "f") },
  examples: [
    { line: "session logs sb-1a2b3c4d 5f0d3e5d", shows: "show a session's output so far" },
    {
      line: "session logs --follow sb-1a2b3c4d 5f0d3e5d",
      shows: "follow the output; Ctrl-C leaves the command running",
    },
  ],
  async run({ id, session, follow }, { host, globals, client, print, signal }) {
    const { sessions } = await client();
    const kept = follow ? (await sessions.attach(id, session, signal)).output : sessions.logs(id, session, signal);
    const collected = globals.json ? collectOutput() : undefined;
    const output = collected ?? passThrough(host);
    for await (const { pipe, bytes } of kept) await output.write(pipe, bytes, signal);
    if (collected !== undefined) await print("", { id: session, ...collected.collected() });
  },
});
