import { defineCommand } from "../../command.ts";
import { command, one, pairs } from "#arguments/inputs.ts";
import { execOptions, execRequestOf } from "#commands/exec/exec-options.ts";

// It reads what is written by those who attach.
const { noStdin: _stdin, ...options } = execOptions;

export const start = defineCommand({
  summary: "Start a command that runs on by itself and print its session",
  description: "It goes on while the sandbox sleeps and when the server restarts.",
  arguments: { id: one("SANDBOX"), command: command("CMD") },
  options: { env: pairs("an environment variable of the command", "e"), ...options },
  examples: [{ line: "session start sb-1a2b3c4d -- python3 -m http.server 8080", shows: "a server that stays" }],
  async run({ id, env, ...asked }, { client, print, signal }) {
    const { sessions } = await client();
    const session = await sessions.start(id, { ...execRequestOf(asked), envs: env }, signal);
    await print(session.id, session);
  },
});
