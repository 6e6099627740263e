import { accessSync, constants, openSync } from "node:fs";
import { resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ExecRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import type { TerminalSize } from "#system/kernel/terminal.ts";
import type { User } from "#system/users.ts";
import {
  checkEnvironment,
  commandEnvironment,
  type Environment,
  imageEnvironment,
  type MachineEnvironment,
} from "./environment.ts";
import { type ImageDefaults, imageDefaults } from "./image-defaults.ts";
import { type ExitStatus, Reaper } from "./reaper.ts";
import { makePipesReady, spawn, type Spawned, type SpawnRequest, type Variables, variablesFrom } from "./spawn.ts";

/** SIGRTMAX. */
const lastSignal = 64;

/** A running command. Its caller closes the agent's ends of the pipes. */
export interface RunningCommand extends Spawned {
  readonly argv: readonly string[];
  readonly ended: Promise<ExitStatus>;
  /** Kills the command and everything it has started. */
  kill(): void;
  /** Must be called after the end of the command; processes that it left behind run on. */
  release(): void;
}

/** @throws why the command cannot be started */
export type StartCommand = (request: ExecRequest, terminal?: TerminalSize) => RunningCommand;

export function commandStarter(system: System, environment: MachineEnvironment): StartCommand {
  const reaper = new Reaper();
  const nullDevice = openSync("/dev/null", "r");
  const variablesOf = rememberedVariables(environment);
  return (request, terminal) => {
    const command = commandOf(request, terminal, { system, variablesOf });
    const group = system.takeCommandGroup();
    try {
      const spawned = spawn({ ...command, cgroup: group.cgroup }, system, nullDevice);
      const { pid } = spawned;
      return {
        ...spawned,
        argv: command.argv,
        ended: reaper.ended(pid),
        kill: () => group.kill(pid),
        release: () => {
          group.release(pid);
          makePipesReady();
        },
      };
    } catch (error) {
      group.release(0);
      throw error;
    }
  };
}

/** Signals the process group of a command; one that has ended ignores it. @throws invalid_argument: no such signal */
export function signalGroup(pid: number, signal: number): void {
  if (signal < 1 || signal > lastSignal) {
    throw new SandboxError("invalid_argument", `there is no signal ${signal}: use 1 to ${lastSignal}`);
  }
  try {
    process.kill(-pid, signal);
  } catch (error) {
    // The command has ended, and its status is on the way.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function commandOf(
  { argv: asked, cwd, envs, user: name, stdin }: ExecRequest,
  terminal: TerminalSize | undefined,
  { system, variablesOf }: { system: System; variablesOf: VariablesOf },
): Omit<SpawnRequest, "cgroup"> {
  const [first = "", ...others] = asked;
  const program = system.programOf?.(first);
  const argv =
    asked.length === 0 && terminal !== undefined
      ? [defaultShell()]
      : program === undefined
        ? asked
        : [...program, ...others];
  if ((argv[0] ?? "") === "") throw new SandboxError("invalid_argument", "the command is empty: name a program");
  if ([...argv, cwd].some((text) => text.includes("\0"))) {
    throw new SandboxError("invalid_argument", "a command and its working directory cannot contain a zero byte");
  }
  checkEnvironment(envs);
  const defaults = imageDefaults();
  const user = system.findUser(name === "" ? defaults.user : name);
  const directory = cwd === "" ? defaults.workdir : cwd;
  return {
    argv,
    variables: variablesOf(user, terminal === undefined ? envs : { TERM: "xterm-256color", ...envs }),
    cwd: directory === "" ? user.home : system.locate(resolve(user.home, directory)),
    user,
    stdin: terminal ?? (stdin ? "pipe" : "null"),
  };
}

type VariablesOf = (user: User, own: Environment) => Variables;

/** Caches the environment of each user: most commands have no variables of their own. */
function rememberedVariables(environment: MachineEnvironment): VariablesOf {
  let known = new Map<string, Variables>();
  let ofMachine: Environment | undefined;
  let ofImage: Environment | undefined;
  let ofDefaults: ImageDefaults | undefined;
  return (user, own) => {
    const [machine, image, defaults] = [environment.present, imageEnvironment(), imageDefaults()];
    if (Object.keys(own).length > 0) return variablesFrom(commandEnvironment(user, machine, own));
    if (machine !== ofMachine || image !== ofImage || defaults !== ofDefaults) known = new Map();
    [ofMachine, ofImage, ofDefaults] = [machine, image, defaults];
    const key = `${user.name}\0${user.home}\0${user.shell}`;
    const variables = known.get(key) ?? variablesFrom(commandEnvironment(user, machine, own));
    known.set(key, variables);
    return variables;
  };
}

function defaultShell(): string {
  try {
    accessSync("/bin/bash", constants.X_OK);
    return "/bin/bash";
  } catch {
    return "/bin/sh";
  }
}
