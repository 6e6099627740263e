import { defineCommand } from "../../command.ts";
import { command, one, pairs } from "#arguments/inputs.ts";
import { execOptions, execRequestOf } from "#commands/exec/exec-options.ts";

// A session's input comes from the clients that attach to it.
const { noStdin: _stdin, ...options } = execOptions;

export const start = defineCommand({
  summary: "Start a command that runs without a client, and print its session id",
  description: "The command survives hibernation of the sandbox and restarts of the server.",
  arguments: { id: one("SANDBOX"), command: command("CMD") },
  options: { env: pairs("set an environment variable for the command", "e"), ...options },
  examples: [{ line: "session start sb-1a2b3c4d -- python3 -m http.server 8080", shows: "start a web server" }],
  async run({ id, env, ...asked }, { client, print, signal }) {
    const { sessions } = await client();
    const session = await sessions.start(id, { ...execRequestOf(asked), envs: env }, signal);
    await print(session.id, session);
  },
});
