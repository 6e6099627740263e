import type { Readable } from "node:stream";
import type { Client, ExecRequest, ExecStream } from "@opensandbox/sdk";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { CommandOutput } from "./command-output.ts";
import { exitCodeOf, type InterruptName, type Interrupts, signalNumberOf } from "../../interrupts.ts";
import { isReaderGone } from "#output/write-to.ts";

export interface CommandToStream {
  readonly client: Client;
  readonly sandboxId: string;
  readonly request: ExecRequest;
  /** Undefined: the command's standard input is empty. */
  readonly stdin: Readable | undefined;
  readonly output: CommandOutput;
  /** Time that an interrupted command has to end, in milliseconds. Absent: unlimited. */
  readonly graceMs?: number;
}

// The exit code of timeout(1).
const timedOutCode = 124;
// The exit code of shells.
const commandNotFoundCode = 127;
// The exit code of a program that SIGPIPE ended.
const readerGoneCode = 141;

/**
 * Runs a command with its streams passed through. Returns the exit code for this process. The first interrupt is passed
 * on to the command. A second one, or the end of the grace period, ends it.
 */
export async function streamCommand(command: CommandToStream, interrupts: Interrupts): Promise<number> {
  const { client, sandboxId, request, stdin, output } = command;
  const ended = new AbortController();
  const end = (): void => ended.abort(new SandboxError("canceled", "canceled"));
  using held = holdInterrupts(interrupts, command.graceMs, end);
  try {
    const exec = await client.exec.stream(sandboxId, { ...request, stdin: stdin !== undefined }, ended.signal);
    held.pass(exec);
    if (stdin !== undefined) void forwardStdin(stdin, exec);
    for await (const { pipe, bytes } of exec.output) await output.write(pipe, bytes, ended.signal);
    const exitCode = await exec.exitCode;
    return exitCode < 0 ? timedOutCode : exitCode;
  } catch (error) {
    if (isReaderGone(error)) return readerGoneCode;
    if (ended.signal.aborted && held.last !== undefined) return exitCodeOf(held.last);
    if (isNoSuchCommand(error)) {
      output.report(error.message);
      return commandNotFoundCode;
    }
    throw error;
  } finally {
    ended.abort();
    // An open terminal or pipe would keep this process alive.
    stdin?.destroy();
  }
}

interface HeldInterrupts extends Disposable {
  readonly last: InterruptName | undefined;
  /** Passes interrupts on to the command from now on. */
  pass(exec: ExecStream): void;
}

function holdInterrupts(interrupts: Interrupts, graceMs: number | undefined, end: () => void): HeldInterrupts {
  let exec: ExecStream | undefined;
  let last: InterruptName | undefined;
  let grace: NodeJS.Timeout | undefined;
  // The call fails when the command has just ended, and then the command's end arrives anyway.
  const send = (name: InterruptName): void => void exec?.kill(signalNumberOf(name)).catch(() => undefined);
  const taken = interrupts.take((name) => {
    if (last !== undefined || exec === undefined) end();
    last = name;
    send(name);
    if (graceMs !== undefined) grace ??= setTimeout(end, graceMs);
  });
  return {
    get last() {
      return last;
    },
    pass(started) {
      exec = started;
    },
    [Symbol.dispose]() {
      clearTimeout(grace);
      taken[Symbol.dispose]();
    },
  };
}

/** Never rejects: when the command or this process stops reading, the command sees the end of its input. */
async function forwardStdin(stdin: Readable, exec: ExecStream): Promise<void> {
  try {
    for await (const chunk of stdin as AsyncIterable<Uint8Array>) await exec.write(chunk);
  } catch {
    // The end of the input.
  }
  await exec.closeStdin().catch(() => undefined);
}

function isNoSuchCommand(error: unknown): error is SandboxError<"not_found"> {
  return isSandboxError(error, "not_found") && error.details?.resource === "file";
}
