import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/execs.ts";
import { parse } from "@opensandbox/wire/route.ts";
import type { FastifyInstance } from "fastify";
import type { WebSocket } from "ws";
import { type PrivateCommand, startPrivateCommand } from "#execs/private-command.ts";
import type { Use } from "#lifecycle/activity.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import type { Message } from "#http/sockets/message-inbox.ts";
import { sendMessage } from "#http/sockets/send-message.ts";
import { type Connection, serveSocket } from "#http/sockets/serve-socket.ts";
import { serve } from "../serve.ts";
import { StdinQueue } from "#http/sockets/stdin-queue.ts";

/** One command over one WebSocket. The route documents its messages. */
export function serveExecStream(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  serve(app, sandboxes.shutdown.ending, wire.streamExec, async (call) => {
    const { organizationId } = call;
    const id = parseSandboxId(call.parameter("id"));
    await sandboxes.stores.sandboxes.get(organizationId, id);
    return await serveSocket(api, call, (connection) => stream(api, { ...connection, id, organizationId }));
  });
}

interface StreamConnection extends Connection {
  readonly id: SandboxId;
  readonly organizationId: string;
}

async function stream({ sandboxes }: ApiContext, connection: StreamConnection): Promise<void> {
  const { socket, inbox, id, organizationId } = connection;
  const ended = new AbortController();
  socket.once("close", () => ended.abort(new SandboxError("canceled", "the client disconnected")));
  const signal = AbortSignal.any([ended.signal, sandboxes.shutdown.ending]);

  const start = startOf(await inbox.first(signal));
  using use = await useSandbox(sandboxes, organizationId, id, signal);
  const { sessions } = sandboxes.worker.guest(id);
  const command = await startPrivateCommand(sessions, wire.streamedExecFrom(start), signal);
  const kill = (number: number): Promise<void> => sessions.signal(command.sessionId, number, signal);
  try {
    const input = { command, kill, use, reportsTaken: start.stdinCredit ?? false };
    takeInput(connection, input, (error) => ended.abort(error));
    await sendOutput(socket, command, use, signal);
  } catch (error) {
    // A caller that broke the protocol receives that error, not the end of the command that follows from it.
    throw ended.signal.aborted ? ended.signal.reason : error;
  } finally {
    // Kills the command after a failure. After the command's end this has no effect.
    ended.abort();
  }
}

/** The command in the first message. */
function startOf({ data, isBinary }: Message): wire.StreamStart {
  if (isBinary) throw invalid("the first message must be text: the command as JSON");
  return parse(wire.StreamStart, jsonOf(data.toString("utf8")));
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new SandboxError("invalid_argument", "the first message must be the command as JSON", {
      cause: error,
    });
  }
}

interface Input {
  readonly command: PrivateCommand;
  /** Sends a signal to the command's process group. */
  readonly kill: (signal: number) => Promise<void>;
  readonly use: Use;
  /** Whether the client asked for reports of how much of its input the command has taken. */
  readonly reportsTaken: boolean;
}

function takeInput(
  { socket, inbox }: Connection,
  { command, kill, use, reportsTaken }: Input,
  refuse: (error: SandboxError) => void,
): void {
  const stdin = new StdinQueue(command, {
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    taken: (bytes) => {
      if (reportsTaken) socket.send(frame(wire.streamFrame.stdinTaken, int32(bytes)));
    },
  });
  inbox.forEach(({ data, isBinary }) => {
    use.touch();
    try {
      if (!isBinary) throw invalid("messages after the first must be binary");
      takeFrame(data, kill, stdin);
    } catch (error) {
      refuse(asSandboxError(error));
    }
  });
}

function takeFrame(data: Buffer, kill: Input["kill"], stdin: StdinQueue): void {
  switch (data[0]) {
    case wire.streamFrame.stdin:
      stdin.write(data.subarray(1));
      return;
    case wire.streamFrame.stdinEnd:
      stdin.end();
      return;
    case wire.streamFrame.signal:
      // A command that has just ended takes no signal; its end is on the way.
      stdin.control(kill(wire.signalFrom(data)));
      return;
    case undefined:
    default:
      throw invalid(`a message must begin with 0x00, 0x05 or 0x06, not ${data[0] ?? "nothing"}`);
  }
}

async function sendOutput(socket: WebSocket, command: PrivateCommand, use: Use, signal: AbortSignal): Promise<void> {
  for await (const part of command.output) {
    if (part === "scrollback end") continue;
    use.touch();
    await sendMessage(socket, frame(wire.streamFrame[part.pipe], part.bytes), signal);
  }
  const { end } = await command.result;
  if (end.timedOut) await sendMessage(socket, frame(wire.streamFrame.stderr, Buffer.from(wire.timedOutText)), signal);
  await sendMessage(socket, frame(wire.streamFrame.exit, int32(wire.streamedExitCode(end))), signal);
}

function frame(kind: number, payload: Uint8Array): Buffer {
  const message = Buffer.allocUnsafe(1 + payload.length);
  message[0] = kind;
  message.set(payload, 1);
  return message;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid_argument", message);
}
