import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { AttachedSession, ExecSession } from "@opensandbox/wire/worker/sessions.ts";
import type { FastifyInstance } from "fastify";
import type { Clock } from "../../clock.ts";
import { newSessionId } from "#execs/run-command.ts";
import type { ApiContext } from "../api-context.ts";
import { attachSocket, type SessionWords } from "#http/sockets/attach-socket.ts";
import { failureOf } from "../reply-error.ts";
import { answered, type Call, serve } from "../serve.ts";
import { TerminalReplay } from "#http/sockets/terminal-replay.ts";
import { acceptWebSocket } from "#http/sockets/web-socket.ts";
import { useCalledSandbox } from "../requests/use-called-sandbox.ts";

/** How long an ended session is listed. */
const listedMs = 300_000;

export const SIGKILL = 9;

/** Exec sessions, and terminals, which are sessions without frames on their WebSocket. */
export function serveExecSessions(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  const { worker, clock } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.startSession, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const session = await worker
      .guest(id)
      .sessions.create(wire.sessionFrom(newSessionId(call.body), call.body), call.signal);
    return wire.sessionReplyOf(id, session);
  });

  serve(app, ending, wire.listSessions, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const sessions = await worker.guest(id).sessions.list(call.signal);
    return sessions.filter((session) => isListed(session, clock)).map((session) => wire.sessionReplyOf(id, session));
  });

  serve(app, ending, wire.attachSession, async (call) => await attach(api, call, execWords));

  serve(app, ending, wire.killSession, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    await worker.guest(id).sessions.signal(call.parameter("sessionId"), call.body.signal ?? SIGKILL, call.signal);
  });

  serve(app, ending, wire.startTerminal, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const session = await worker.guest(id).sessions.create(wire.terminalFrom(newSessionId(), call.body), call.signal);
    return { sessionID: session.id, sandboxID: id };
  });

  serve(app, ending, wire.attachTerminal, async (call) => await attach(api, call, terminalWords()));

  serve(app, ending, wire.resizeTerminal, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    await worker.guest(id).sessions.resize(call.parameter("sessionId"), wire.sizeFrom(call.body), call.signal);
  });

  serve(app, ending, wire.closeTerminal, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    await worker.guest(id).sessions.remove(call.parameter("sessionId"), call.signal);
  });
}

const execWords: SessionWords = {
  output: (part) => wire.encodeServerFrame(part === "scrollback end" ? { pipe: part } : part),
  exit: ({ end }) => wire.encodeServerFrame(wire.exitFrameOf(end)),
  input: (message) => wire.decodeClientFrame(message),
};

/** Raw bytes, without the terminal queries that a replay must not repeat. */
function terminalWords(): SessionWords {
  let replay: TerminalReplay | undefined = new TerminalReplay();
  return {
    output: (part) => {
      if (part !== "scrollback end") return replay === undefined ? part.bytes : replay.pass(part.bytes);
      const rest = replay?.end();
      replay = undefined;
      return rest;
    },
    exit: () => undefined,
    input: (message) => ({ kind: "stdin", bytes: message }),
  };
}

export function isListed({ endedMs }: ExecSession, clock: Clock): boolean {
  return endedMs === undefined || clock.now() - endedMs < listedMs;
}

async function attach(api: ApiContext, call: Call<unknown, unknown>, words: SessionWords): Promise<typeof answered> {
  const { sandboxes, timing } = api;
  const { id, use } = await useCalledSandbox(api, call);
  const gone = new AbortController();
  const signal = AbortSignal.any([gone.signal, sandboxes.shutdown.ending]);
  let attached: AttachedSession;
  {
    // Attaching does not count as activity; traffic does.
    using _ = use;
    const request = AbortSignal.any([signal, call.signal]);
    attached = await sandboxes.worker
      .guest(id)
      .sessions.attach(call.parameter("sessionId"), { fromStart: false }, request);
  }
  try {
    const socket = await acceptWebSocket(call.request, call.reply, timing.keepAliveMs);
    socket.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
    try {
      await attachSocket(socket, attached, { words, touch: () => use.touch(), log: sandboxes.log }, signal);
      socket.close(1000);
    } catch (error) {
      const { body } = failureOf(error, call.request.id, sandboxes);
      // The message carries no exit code, because the command may still run.
      socket.close(1011, body.code);
    }
  } finally {
    gone.abort();
  }
  return answered;
}
