import { constants } from "node:os";
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  closeDescriptor,
  mayExecute,
  openPipe,
  posixSpawn,
  type StringTable,
  stringTable,
  systemError,
  withRealUser,
} from "#system/libc.ts";
import type { System } from "#system/system.ts";
import type { User } from "#system/users.ts";
import type { Environment } from "./environment.ts";

export interface SpawnRequest {
  readonly argv: readonly string[];
  readonly environment: Environment;
  /** Where it is, not what the sandbox calls it. */
  readonly cwd: string;
  readonly user: User;
  /** Without it standard input is /dev/null. */
  readonly stdin: boolean;
  readonly cgroup: number | undefined;
}

/** The agent's ends of the pipes are the caller's to close. */
export interface Spawned {
  readonly pid: number;
  readonly stdin: number | undefined;
  readonly stdout: number;
  readonly stderr: number;
}

/** Starts a command. It runs when this returns. @throws why it cannot */
export function spawn(request: SpawnRequest, system: System, nullDevice: number): Spawned {
  using theirs = new DisposableStack();
  using ours = new DisposableStack();
  const pipe = (): { read: number; write: number } => openPipe();
  const input = request.stdin ? pipe() : undefined;
  if (input !== undefined) {
    theirs.defer(() => closeDescriptor(input.read));
    ours.defer(() => closeDescriptor(input.write));
  }
  const [output, error] = [pipe(), pipe()];
  for (const { read, write } of [output, error]) {
    theirs.defer(() => closeDescriptor(write));
    ours.defer(() => closeDescriptor(read));
  }
  const stdio = [input?.read ?? nullDevice, output.write, error.write] as const;
  const run = (): number => system.starting(() => execute(request, stdio));
  const pid = request.user.credentials === undefined ? run() : withRealUser(request.user.credentials, run);
  ours.move();
  return { pid, stdin: input?.write, stdout: output.read, stderr: error.read };
}

/** Tries the files that the command's name can mean, in the order of its PATH, as execvp(3) does. */
function execute(request: SpawnRequest, stdio: readonly [number, number, number]): number {
  const { argv, environment, cwd, cgroup } = request;
  const [name = ""] = argv;
  const tables: { arguments: StringTable; environment: StringTable } = {
    arguments: stringTable(argv),
    environment: stringTable(Object.entries(environment).map(([key, value]) => `${key}=${value}`)),
  };
  let failure: number = constants.errno.ENOENT;
  for (const path of candidates(name, environment["PATH"] ?? "", cwd)) {
    const denied = mayExecute(path);
    const result = denied === 0 ? posixSpawn({ path, ...tables, cwd, stdio, cgroup }) : -denied;
    if (result > 0) return result;
    // One that may not be executed gives way to a later one, and is what is told of if there is none.
    if (result === -constants.errno.EACCES) failure = constants.errno.EACCES;
    else if (!elsewhere.has(-result)) throw whyNot(request, -result);
  }
  throw whyNot(request, failure);
}

const elsewhere = new Set<number>([constants.errno.ENOENT, constants.errno.ENOTDIR, constants.errno.EACCES]);

function candidates(name: string, path: string, cwd: string): readonly string[] {
  if (name.includes("/")) return [resolve(cwd, name)];
  return path.split(":").map((folder) => `${resolve(cwd, folder)}/${name}`);
}

function whyNot({ argv, cwd, user }: SpawnRequest, errno: number): SandboxError {
  const [name = ""] = argv;
  const cause = systemError("posix_spawn", errno);
  const folder = statSync(cwd, { throwIfNoEntry: false });
  if (folder === undefined || !folder.isDirectory()) {
    const what = folder === undefined ? "does not exist" : "is no directory";
    return new SandboxError("invalid_argument", `the working directory ${cwd} ${what}`, undefined, { cause });
  }
  switch (errno) {
    case constants.errno.ENOENT:
      return new SandboxError("not_found", `command not found: ${name}`, { resource: "file", id: name }, { cause });
    case constants.errno.EACCES:
    case constants.errno.EPERM:
      return new SandboxError(
        "permission_denied",
        `${user.name} may not execute ${name}, or not enter ${cwd}`,
        undefined,
        { cause },
      );
    case constants.errno.E2BIG:
      return new SandboxError("invalid_argument", "the arguments and environment are too long", undefined, { cause });
    case constants.errno.ENOEXEC:
      return new SandboxError("invalid_argument", `${name} is no program, and no script with a #! line`, undefined, {
        cause,
      });
    case constants.errno.EAGAIN:
    case constants.errno.ENOMEM:
      return new SandboxError("unavailable", `${name} cannot be started: the sandbox is full of processes`, undefined, {
        cause,
      });
    default:
      return new SandboxError("internal", `cannot start ${name}: ${cause.code ?? errno}`, undefined, { cause });
  }
}
