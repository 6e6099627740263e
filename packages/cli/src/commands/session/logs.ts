import { collectedOutput, passedThrough } from "#commands/exec/command-output.ts";
import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const logs = defineCommand({
  summary: "Show what is kept of the output of an exec session",
  description:
    "About 1 MiB of it, also of one that has ended in the last five minutes. What it wrote to standard error is written " +
    "there.",
  arguments: { id: one("SANDBOX"), session: one("SESSION") },
  options: { follow: flag("then show what comes, until the command ends", "f") },
  examples: [
    { line: "session logs sb-1a2b3c4d 5f0d3e5d", shows: "what it has written" },
    { line: "session logs --follow sb-1a2b3c4d 5f0d3e5d", shows: "and what it writes; Ctrl-C leaves it running" },
  ],
  async run({ id, session, follow }, { host, globals, client, print, signal }) {
    const { sessions } = await client();
    const kept = follow ? (await sessions.attach(id, session, signal)).output : sessions.logs(id, session, signal);
    const collected = globals.json ? collectedOutput() : undefined;
    const output = collected ?? passedThrough(host);
    for await (const { pipe, bytes } of kept) await output.write(pipe, bytes, signal);
    if (collected !== undefined) await print("", { id: session, ...collected.collected() });
  },
});
