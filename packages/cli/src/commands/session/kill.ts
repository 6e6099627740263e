import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const kill = defineCommand({
  summary: "Send a signal to an exec session",
  description: "The signal goes to the session's process group.",
  arguments: { id: one("SANDBOX"), session: one("SESSION") },
  options: { signal: whole("NUMBER", "the signal's number (default: 9)") },
  examples: [{ line: "session kill --signal 15 sb-1a2b3c4d 5f0d3e5d", shows: "ask a session's command to end" }],
  async run({ id, session, signal: number }, { client, print, signal }) {
    const { sessions } = await client();
    await sessions.kill(id, session, number, signal);
    await print(`sent signal ${number ?? 9} to ${session}`, { id: session, signal: number ?? 9 });
  },
});
