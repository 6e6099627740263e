import { constants } from "node:os";
import { closeSync, statSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  openNonBlockingPipe,
  openPipe,
  type Pipe,
  posixSpawn,
  type Stdio,
  type StringTable,
  stringTable,
  systemError,
  withRealUser,
} from "#system/kernel/libc.ts";
import type { System } from "#system/system.ts";
import { openTerminal, type TerminalSize } from "#system/kernel/terminal.ts";
import type { User } from "#system/users.ts";
import type { Environment } from "./environment.ts";

export interface SpawnRequest {
  readonly argv: readonly string[];
  readonly variables: Variables;
  /** The real path, which in a fake machine differs from the sandbox's. */
  readonly cwd: string;
  readonly user: User;
  /** `pipe` makes standard input a pipe; a size makes all three a terminal. */
  readonly stdin: "null" | "pipe" | TerminalSize;
  readonly cgroup: number | undefined;
}

/** An environment in the form that the kernel takes. */
export interface Variables {
  readonly path: string;
  readonly table: StringTable;
}

export function variablesFrom(environment: Environment): Variables {
  const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return { path: environment["PATH"] ?? "", table: stringTable(lines) };
}

/** A started command. The caller closes the agent's ends. */
export interface Spawned {
  readonly pid: number;
  readonly stdio:
    | { readonly stdin: number | undefined; readonly stdout: number; readonly stderr: number }
    | { readonly terminal: number };
}

/** Starts a command, which runs when this returns. @throws why it cannot start */
export function spawn(request: SpawnRequest, system: System, nullDevice: number): Spawned {
  using theirs = new DisposableStack();
  using ours = new DisposableStack();
  const keep = (descriptor: number): number => ours.adopt(descriptor, closeSync);
  const pass = (descriptor: number): number => theirs.adopt(descriptor, closeSync);
  const { stdin, user } = request;
  let stdio: Spawned["stdio"];
  let theirStdio: Stdio;
  if (typeof stdin === "object") {
    const { descriptor, path } = openTerminal(stdin, user.credentials);
    stdio = { terminal: keep(descriptor) };
    theirStdio = { terminal: path };
  } else {
    const input = stdin === "pipe" ? openPipe() : undefined;
    const output = takePipe();
    const error = takePipe();
    stdio = {
      stdin: input === undefined ? undefined : keep(input.write),
      stdout: keep(output.read),
      stderr: keep(error.read),
    };
    theirStdio = [input === undefined ? nullDevice : pass(input.read), pass(output.write), pass(error.write)];
  }
  const run = (): number => system.starting(() => execute(request, theirStdio));
  const pid = user.credentials === undefined ? run() : withRealUser(user.credentials, run);
  ours.move();
  return { pid, stdio };
}

/** Opened ahead by {@link makePipesReady}. */
const readyPipes: Pipe[] = [];
const maxReadyPipes = 2;

function takePipe(): Pipe {
  return readyPipes.pop() ?? openNonBlockingPipe();
}

/** Opens pipes for the next command while no caller waits. */
export function makePipesReady(): void {
  while (readyPipes.length < maxReadyPipes) readyPipes.push(openNonBlockingPipe());
}

function execute(request: SpawnRequest, stdio: Stdio): number {
  const { argv, variables, cwd, cgroup } = request;
  const result = posixSpawn({
    arguments: stringTable(argv),
    environment: variables.table,
    searchPath: variables.path,
    ...{ cwd, stdio, cgroup },
  });
  if (result < 0) throw whyNot(request, -result);
  return result;
}

function whyNot({ argv, cwd, user }: SpawnRequest, errno: number): SandboxError {
  const [name = ""] = argv;
  const cause = systemError("posix_spawn", errno);
  const folder = statSync(cwd, { throwIfNoEntry: false });
  if (folder === undefined || !folder.isDirectory()) {
    const what = folder === undefined ? "does not exist" : "is not a directory";
    return new SandboxError("invalid_argument", `the working directory ${cwd} ${what}`, { cause });
  }
  switch (errno) {
    case constants.errno.ENOENT:
    case constants.errno.ENOTDIR:
      return new SandboxError("not_found", `command not found: ${name}`, { resource: "file", id: name }, { cause });
    case constants.errno.EACCES:
    case constants.errno.EPERM:
      return new SandboxError("permission_denied", `${user.name} may not execute ${name}, or may not enter ${cwd}`, {
        cause,
      });
    case constants.errno.E2BIG:
      return new SandboxError("invalid_argument", "the arguments and environment are longer than the kernel allows", {
        cause,
      });
    case constants.errno.ENOEXEC:
      return new SandboxError("invalid_argument", `${name} is neither an executable nor a script with a #! line`, {
        cause,
      });
    case constants.errno.EAGAIN:
    case constants.errno.ENOMEM:
      return new SandboxError(
        "unavailable",
        `${name} cannot be started: the sandbox has reached its limit of processes or memory`,
        {
          cause,
        },
      );
    default:
      return new SandboxError("internal", `cannot start ${name}: ${cause.code ?? errno}`, { cause });
  }
}
