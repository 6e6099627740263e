import type { Client, ExecRequest } from "@opensandbox/sdk";
import { collectOutput, passThrough } from "./command-output.ts";
import type { Context } from "../../context.ts";
import { streamCommand } from "./stream-command.ts";

export interface CommandInSandbox {
  readonly client: Client;
  readonly sandboxId: string;
  readonly request: ExecRequest;
  readonly noStdin: boolean;
  /** See {@link streamCommand}. */
  readonly graceMs?: number;
}

/** Runs a command with its streams passed through. With `--json`, its output becomes part of the result. */
export async function streamOrCollect(
  { noStdin, ...command }: CommandInSandbox,
  { host, globals, print }: Context,
): Promise<number> {
  const stdin = noStdin ? undefined : host.stdin;
  if (!globals.json) return await streamCommand({ ...command, stdin, output: passThrough(host) }, host.interrupts);
  const output = collectOutput();
  const exitCode = await streamCommand({ ...command, stdin, output }, host.interrupts);
  await print("", { sandboxId: command.sandboxId, exitCode, ...output.collected() });
  return exitCode;
}
