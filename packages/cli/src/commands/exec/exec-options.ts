import type { ExecRequest } from "@opensandbox/sdk";
import { flag, text, whole } from "#arguments/inputs.ts";

/** Options of a command in a sandbox, for `run`, `exec` and `session start`. */
export const execOptions = {
  cwd: text("DIR", "the working directory (default: /home/sandbox)"),
  user: text("NAME", "the user (default: sandbox)", "u"),
  timeout: whole("SECONDS", "kill the command after this long, with exit code 124 (default: never)"),
  noStdin: flag("do not read standard input: the command's input is empty", "n"),
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
