import { accessSync, closeSync, constants, existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { ExecRequestSchema, type Hooks } from "@opensandbox/wire/guest/messages_pb.js";
import type { StartCommand } from "#exec/command.ts";

export interface HookOptions {
  /** Has a directory `EVENT.d` for each event. */
  readonly directory: string;
  /** Holds the output of the last run of each hook: `EVENT/NAME.log`. */
  readonly logs: string;
  readonly start: StartCommand;
  readonly report: (message: string) => void;
}

/** Runs the hooks of an event. Resolves when the last one has ended or the time has passed. Never rejects. */
export type RunHooks = (hooks: Hooks) => Promise<void>;

/** The hooks of a machine. A repeated request with the same run id waits for the first one. */
export function hookRunner(options: HookOptions): RunHooks {
  let last: { readonly runId: string; readonly done: Promise<void> } | undefined;
  return async (hooks) => {
    const { runId } = hooks;
    if (last?.runId !== runId) last = { runId, done: runAll(hooks, options) };
    await last.done;
  };
}

async function runAll({ event, timeoutMs }: Hooks, options: HookOptions): Promise<void> {
  const { directory, logs, report } = options;
  const until = performance.now() + timeoutMs;
  for (const path of programsIn(join(directory, `${event}.d`), report)) {
    const leftMs = until - performance.now();
    try {
      if (leftMs <= 0) throw new Error(`left out: the hooks before it took the ${timeoutMs} ms of all hooks`);
      const log = join(logs, event, `${basename(path)}.log`);
      mkdirSync(dirname(log), { recursive: true });
      await runOne({ path, event, log, leftMs }, options.start);
    } catch (error) {
      report(`the hook ${path} failed: ${asSandboxError(error).message}`);
    }
  }
}

interface Hook {
  readonly path: string;
  readonly event: string;
  readonly log: string;
  readonly leftMs: number;
}

/** @throws when the hook cannot start, fails or does not end in time */
async function runOne({ path, event, log, leftMs }: Hook, start: StartCommand): Promise<void> {
  const script = 'exec "$0" >"$1" 2>&1';
  const command = start(
    create(ExecRequestSchema, {
      argv: ["/bin/sh", "-c", script, path, log],
      ...{ cwd: "/", user: "root", envs: { OPENSANDBOX_EVENT: event } },
    }),
  );
  // The shell writes to them only when it cannot open the log, which its exit code says.
  if ("stdout" in command.stdio) for (const pipe of [command.stdio.stdout, command.stdio.stderr]) closeSync(pipe);
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    command.kill();
  }, leftMs);
  try {
    const { exitCode, signal } = await command.ended;
    if (isLate) throw new Error("it was killed because it did not end in time");
    if (signal !== 0) throw new Error(`signal ${signal} ended it`);
    if (exitCode !== 0) throw new Error(`it exited with ${exitCode}; its output is in ${log}`);
  } finally {
    clearTimeout(timer);
    command.release();
  }
}

/** Executable files, by name. Most guests have none. */
function programsIn(directory: string, report: (message: string) => void): string[] {
  // An exception costs tens of milliseconds in a guest whose code is cold.
  if (!existsSync(directory)) return [];
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    report(`the hooks in ${directory} cannot be read: ${String((error as NodeJS.ErrnoException).code)}`);
    return [];
  }
  return names
    .toSorted()
    .map((name) => join(directory, name))
    .filter(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
