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
import { Reaper } from "./reaper.ts";
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
    let spawned: Spawned | undefined;
    try {
      spawned = spawn({ ...command, cgroup: group.cgroup }, system, nullDevice);
      return await attend(spawned);
    } finally {
      group.release(spawned?.pid ?? 0);
    }

    async function attend({ pid, stdin, stdout, stderr }: Spawned): ReturnType<Exec> {
      using onEnd = new DisposableStack();
      const ended = reaper.ended(pid);
      const pipes = [
        new OutputPipe(stdout, (bytes) => stream.sendData(execPipes.stdout, bytes)),
        new OutputPipe(stderr, (bytes) => stream.sendData(execPipes.stderr, bytes)),
      ];
      const input = stdin === undefined ? undefined : new InputPipe(stdin);
      onEnd.defer(() => input?.close());

      const kill = (): void => group.kill(pid);
      stream.signal.addEventListener("abort", kill);
      onEnd.defer(() => stream.signal.removeEventListener("abort", kill));
      if (stream.signal.aborted) kill();

      let late = false;
      const deadline = request.timeoutMs === 0 ? undefined : setTimeout(onDeadline, request.timeoutMs);
      function onDeadline(): void {
        late = true;
        kill();
      }
      onEnd.defer(() => clearTimeout(deadline));

      await stream.sendMessage(ExecStartedSchema, create(ExecStartedSchema, { pid }));
      const broken = takeInput(stream, pid, input).catch((error: unknown) => {
        kill();
        throw error;
      });
      const status = await Promise.race([ended, broken]);
      clearTimeout(deadline);
      for (const pipe of pipes) await pipe.finish();
      // A command that ended by itself just before the deadline has ended by itself.
      return { ...status, timedOut: late && status.signal === SIGKILL };
    }
  };
}
