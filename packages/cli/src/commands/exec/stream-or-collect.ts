import type { Client, ExecRequest } from "@opensandbox/sdk";
import { collectedOutput, passedThrough } from "./command-output.ts";
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

/** Runs the command with its streams passed through; with `--json` its output is part of the result. */
export async function streamOrCollect(
  { noStdin, ...command }: CommandInSandbox,
  { host, globals, print }: Context,
): Promise<number> {
  const stdin = noStdin ? undefined : host.stdin;
  if (!globals.json) return await streamCommand({ ...command, stdin, output: passedThrough(host) }, host.interrupts);
  const output = collectedOutput();
  const exitCode = await streamCommand({ ...command, stdin, output }, host.interrupts);
  await print("", { sandboxId: command.sandboxId, exitCode, ...output.collected() });
  return exitCode;
}
