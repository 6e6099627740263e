import type { ExecRequest } from "@opensandbox/sdk";
import { flag, text, whole } from "#arguments/inputs.ts";

/** How a command is run: the options that `run` and `exec` share. */
export const execOptions = {
  cwd: text("DIR", "the directory it runs in (default: /home/sandbox)"),
  user: text("NAME", "the user it runs as (default: sandbox)", "u"),
  timeout: whole("SECONDS", "kill it after so long, with exit code 124 (default: never)"),
  noStdin: flag("do not read standard input: the command finds its end at once", "n"),
};

interface ExecInput {
  readonly command: readonly [string, ...string[]];
  readonly cwd: string | undefined;
  readonly user: string | undefined;
  readonly timeout: number | undefined;
}

export function execRequestOf({ command, cwd, user, timeout }: ExecInput): ExecRequest {
  const [cmd, ...args] = command;
  return {
    cmd,
    args,
    timeout: timeout ?? 0,
    ...(cwd === undefined ? {} : { cwd }),
    ...(user === undefined ? {} : { user }),
  };
}
