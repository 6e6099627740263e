import { defineCommand } from "../../command.ts";
import { command, flag, one, pairs } from "#arguments/inputs.ts";
import { execOptions, execRequestOf } from "./exec-options.ts";
import { streamOrCollect } from "./stream-or-collect.ts";

export const exec = defineCommand({
  summary: "Run a command in a sandbox",
  description: `Passes the command's input, output and exit code through. A single argument is a command line for the shell. Exits with
the command's code, with 128+N if signal N ended it, 127 if there is no such command, and 124 after a timeout. Ctrl-C
goes to the command; a second Ctrl-C kills it.`,
  arguments: { id: one("SANDBOX"), command: command("CMD") },
  options: {
    env: pairs("set an environment variable for the command", "e"),
    ...execOptions,
    detach: flag("do not wait: print the id of an exec session, for 'session'", "d"),
    keepAwake: flag("with --detach: the sandbox is not idle while the command runs"),
  },
  examples: [
    { line: "exec sb-1a2b3c4d -- python3 -c 'print(6 * 7)'", shows: "run a program with arguments" },
    { line: "exec sb-1a2b3c4d 'ls -l | wc -l'", shows: "run a shell command line" },
    { line: "tar -c src | osb exec sb-1a2b3c4d -- tar -x -C /workspace", shows: "pass standard input to the command" },
    { line: "exec --detach sb-1a2b3c4d -- make", shows: "start a command without waiting for it" },
    {
      line: "exec --user root --cwd / --timeout 60 sb-1a2b3c4d -- apt-get update",
      shows: "run as root, in another directory, for at most a minute",
    },
  ],
  check: ({ detach, keepAwake }) => (keepAwake && !detach ? "--keep-awake needs --detach" : undefined),
  async run({ id, env, noStdin, detach, keepAwake, ...asked }, context) {
    const client = await context.client();
    const request = { ...execRequestOf(asked), envs: env };
    if (detach) {
      const session = await client.sessions.start(id, { ...request, keepAwake }, context.signal);
      await context.print(session.id, session);
      return 0;
    }
    return await streamOrCollect({ client, sandboxId: id, request, noStdin }, context);
  },
});
