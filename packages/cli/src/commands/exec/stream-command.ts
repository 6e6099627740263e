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
  /** Undefined: the command reads end of file at once. */
  readonly stdin: Readable | undefined;
  readonly output: CommandOutput;
  /** Milliseconds that an interrupted command has to end; absent: it may take its time. */
  readonly graceMs?: number;
}

// As coreutils' timeout has it.
const timedOutCode = 124;
// As a shell has it.
const commandNotFoundCode = 127;
// As a program ends that writes into a pipe which nobody reads: by SIGPIPE.
const readerGoneCode = 141;

/**
 * Runs a command with its streams passed through, and returns the exit code that this process should have. An
 * interrupt is passed on to the command; a second one, or the end of its grace, ends it.
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
      output.complain(error.message);
      return commandNotFoundCode;
    }
    throw error;
  } finally {
    ended.abort();
    // A terminal, or a pipe that stays open, would keep this process waiting for more.
    stdin?.destroy();
  }
}

interface HeldInterrupts extends Disposable {
  readonly last: InterruptName | undefined;
  /** Interrupts are the command's from now on. */
  pass(exec: ExecStream): void;
}

function holdInterrupts(interrupts: Interrupts, graceMs: number | undefined, end: () => void): HeldInterrupts {
  let exec: ExecStream | undefined;
  let last: InterruptName | undefined;
  let grace: NodeJS.Timeout | undefined;
  // A command that has just ended cannot be told any more; its end is on the way.
  const tell = (name: InterruptName): void => void exec?.kill(signalNumberOf(name)).catch(() => undefined);
  const taken = interrupts.take((name) => {
    if (last !== undefined || exec === undefined) end();
    last = name;
    tell(name);
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

/** Never rejects: a command that reads no more is told of by its end, and so is one that nothing can be read for. */
async function forwardStdin(stdin: Readable, exec: ExecStream): Promise<void> {
  try {
    for await (const chunk of stdin as AsyncIterable<Uint8Array>) await exec.write(chunk);
  } catch {
    // What there was to read ends here.
  }
  await exec.closeStdin().catch(() => undefined);
}

function isNoSuchCommand(error: unknown): error is SandboxError<"not_found"> {
  return isSandboxError(error, "not_found") && error.details?.resource === "file";
}
