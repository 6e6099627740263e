import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Socket } from "node:net";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type ExecRequest,
  type ExecResultSchema,
  ExecSignalSchema,
  ExecStartedSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes } from "@opensandbox/wire/guest/methods.ts";
import { type RunningCommand, signalGroup, type StartCommand } from "./command.ts";
import { Deadline } from "./deadline.ts";
import { InputPipe } from "./input-pipe.ts";
import { OutputPipe } from "./output-pipe.ts";
import { type QuickOutcome, quickOutcome, sendOutput } from "./quick-outcome.ts";

const SIGKILL = 9;

type Exec = (request: ExecRequest, stream: Stream) => Promise<MessageInitShape<typeof ExecResultSchema>>;

/**
 * Runs a command to its end, and until all that it wrote is on its way. A host that gives the stream up ends the command;
 * when the host is lost the command goes on, and nobody hears of it any more.
 */
export function execs(start: StartCommand): Exec {
  return async (request, stream) => {
    const command = start(request);
    const quick = await quickOutcome(command, request.timeoutMs);
    try {
      return quick === undefined ? await attend(command, request, stream) : await tell(quick, command, stream);
    } finally {
      // After the answer.
      setImmediate(() => command.release());
    }
  };
}

/** How a command that has ended already is told. */
async function tell(outcome: QuickOutcome, { pid }: RunningCommand, stream: Stream): ReturnType<Exec> {
  await stream.sendMessage(ExecStartedSchema, create(ExecStartedSchema, { pid }));
  await sendOutput(outcome, stream);
  return { ...outcome.status, timedOut: false };
}

async function attend(command: RunningCommand, { timeoutMs }: ExecRequest, stream: Stream): ReturnType<Exec> {
  const { pid, stdio, ended } = command;
  if ("terminal" in stdio) throw new Error("a command without a session has no terminal");
  const send = (pipe: number) => (bytes: Uint8Array) => stream.pushData(pipe, bytes);
  const outputs = [
    new OutputPipe(stdio.stdout, { terminal: false }, send(execPipes.stdout)),
    new OutputPipe(stdio.stderr, { terminal: false }, send(execPipes.stderr)),
  ];
  const input = stdio.stdin === undefined ? undefined : inputTo(stdio.stdin);
  let late = false;
  using _ = deadlineOf(timeoutMs, () => {
    late = true;
    command.kill();
  });
  try {
    await stream.sendMessage(ExecStartedSchema, create(ExecStartedSchema, { pid }));
    const status = await Promise.race([ended, takeInput(stream, pid, input)]);
    for (const output of outputs) await output.finish();
    // A command that ended by itself just before the deadline has ended by itself.
    return { ...status, timedOut: late && status.signal === SIGKILL };
  } catch (error) {
    if (!isSandboxError(error, "unavailable")) command.kill();
    else input?.end();
    await ended;
    throw error;
  } finally {
    input?.close();
  }
}

/** A timeout of 0 is none. */
export function deadlineOf(timeoutMs: number, action: () => void): Disposable | undefined {
  return timeoutMs === 0 ? undefined : new Deadline(timeoutMs, action);
}

export function inputTo(fd: number): InputPipe {
  return new InputPipe(new Socket({ fd, readable: false, writable: true }), { terminal: false });
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
