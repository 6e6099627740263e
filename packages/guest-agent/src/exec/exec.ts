import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { openSync } from "node:fs";
import { resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type ExecRequest,
  type ExecResultSchema,
  ExecSignalSchema,
  ExecStartedSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes } from "@opensandbox/wire/guest/methods.ts";
import type { System } from "#system/system.ts";
import { checkEnvironment, commandEnvironment, type MachineEnvironment } from "./environment.ts";
import { InputPipe } from "./input-pipe.ts";
import { OutputPipe } from "./output-pipe.ts";
import { type ExitStatus, Reaper } from "./reaper.ts";
import { spawn, type Spawned, type SpawnRequest } from "./spawn.ts";

const SIGKILL = 9;
/** SIGRTMAX. */
const lastSignal = 64;

type Exec = (request: ExecRequest, stream: Stream) => Promise<MessageInitShape<typeof ExecResultSchema>>;

/** Runs a command to its end, and until all that it wrote is on its way. Who gives the stream up ends the command. */
export function execs(system: System, environment: MachineEnvironment): Exec {
  const reaper = new Reaper();
  const nullDevice = openSync("/dev/null", "r");
  return async (request, stream) => {
    const command = commandOf(request, system, environment);
    const group = system.takeCommandGroup();
    let leader = 0;
    try {
      const spawned = spawn({ ...command, cgroup: group.cgroup }, system, nullDevice);
      leader = spawned.pid;
      return await attend({ ...spawned, ended: reaper.ended(leader), kill: () => group.kill(leader) }, request, stream);
    } finally {
      group.release(leader);
    }
  };
}

function commandOf(
  { argv, cwd, envs, user: name, stdin }: ExecRequest,
  system: System,
  environment: MachineEnvironment,
): Omit<SpawnRequest, "cgroup"> {
  if ((argv[0] ?? "") === "") throw new SandboxError("invalid_argument", "there is no command to run", undefined);
  if ([...argv, cwd].some((text) => text.includes("\0"))) {
    throw new SandboxError("invalid_argument", "a command and its directory cannot hold a zero byte", undefined);
  }
  checkEnvironment(envs);
  const user = system.findUser(name === "" ? "sandbox" : name);
  return {
    argv,
    environment: commandEnvironment(user, environment.present, envs),
    cwd: cwd === "" ? user.home : system.locate(resolve(user.home, cwd)),
    user,
    stdin,
  };
}

interface Running extends Spawned {
  readonly ended: Promise<ExitStatus>;
  /** Ends the command and all that it has started. */
  readonly kill: () => void;
}

async function attend(command: Running, { timeoutMs }: ExecRequest, stream: Stream): ReturnType<Exec> {
  const { pid, stdin, stdout, stderr, ended, kill } = command;
  const outputs = [
    new OutputPipe(stdout, (bytes) => stream.sendData(execPipes.stdout, bytes)),
    new OutputPipe(stderr, (bytes) => stream.sendData(execPipes.stderr, bytes)),
  ];
  const input = stdin === undefined ? undefined : new InputPipe(stdin);
  let late = false;
  const onDeadline = (): void => {
    late = true;
    kill();
  };
  const deadline = timeoutMs === 0 ? undefined : setTimeout(onDeadline, timeoutMs);
  try {
    await stream.sendMessage(ExecStartedSchema, create(ExecStartedSchema, { pid }));
    const status = await Promise.race([ended, takeInput(stream, pid, input)]);
    clearTimeout(deadline);
    for (const output of outputs) await output.finish();
    // A command that ended by itself just before the deadline has ended by itself.
    return { ...status, timedOut: late && status.signal === SIGKILL };
  } catch (error) {
    kill();
    await ended;
    throw error;
  } finally {
    clearTimeout(deadline);
    input?.close();
  }
}

/** Passes on what the host sends while the command runs. Rejects when the host is gone or breaks the rules. */
async function takeInput(stream: Stream, pid: number, input: InputPipe | undefined): Promise<never> {
  for (;;) {
    const incoming = await stream.next();
    switch (incoming.kind) {
      case "data":
        await input?.write(incoming.payload);
        break;
      case "end":
        input?.end();
        break;
      case "message":
        signalGroup(pid, parse(ExecSignalSchema, incoming.payload)?.signal ?? 0);
        break;
    }
  }
}

function signalGroup(pid: number, signal: number): void {
  if (signal < 1 || signal > lastSignal) {
    throw new SandboxError("invalid_argument", `there is no signal ${signal}: choose 1 to ${lastSignal}`, undefined);
  }
  try {
    process.kill(-pid, signal);
  } catch (error) {
    // It has ended meanwhile; its status is on the way.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
