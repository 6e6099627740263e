import { defineCommand } from "../../command.ts";
import { command, flag, one, pairs } from "#arguments/inputs.ts";
import { execOptions, execRequestOf } from "./exec-options.ts";
import { streamOrCollect } from "./stream-or-collect.ts";

export const exec = defineCommand({
  summary: "Run a command in a sandbox",
  description: `The command's input, output and exit code are passed through. A word that stands alone is a line for the
shell. Exits with the command's code: 128+N when signal N ended it, 127 when there is no such command, 124 when its time
was over. Ctrl-C is passed on to the command; a second one kills it.`,
  arguments: { id: one("SANDBOX"), command: command("CMD") },
  options: {
    env: pairs("an environment variable of the command", "e"),
    ...execOptions,
    detach: flag("do not wait: print the id of an exec session, and see 'session'", "d"),
  },
  examples: [
    { line: "exec sb-1a2b3c4d -- python3 -c 'print(6 * 7)'", shows: "run a program with arguments" },
    { line: "exec sb-1a2b3c4d 'ls -l | wc -l'", shows: "a line for the shell" },
    { line: "tar -c src | osb exec sb-1a2b3c4d -- tar -x -C /workspace", shows: "standard input goes to the command" },
    { line: "exec --detach sb-1a2b3c4d -- make", shows: "without waiting for it" },
    {
      line: "exec --user root --cwd / --timeout 60 sb-1a2b3c4d -- apt-get update",
      shows: "as root, elsewhere, for a minute at most",
    },
  ],
  async run({ id, env, noStdin, detach, ...asked }, context) {
    const client = await context.client();
    const request = { ...execRequestOf(asked), envs: env };
    if (detach) {
      const session = await client.sessions.start(id, request, context.signal);
      await context.print(session.id, session);
      return 0;
    }
    return await streamOrCollect({ client, sandboxId: id, request, noStdin }, context);
  },
});
