import { create } from "@bufbuild/protobuf";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type SessionCreateRequest,
  SessionEventSchema,
  SessionInfoSchema,
  SessionInfosSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import type { Handlers } from "#server.ts";
import type { StartCommand } from "./command.ts";
import { endedInfo, ExecSession, type SessionStart } from "./exec-session.ts";
import { OutputLog } from "./output-log.ts";
import { quickOutcome, sendOutput } from "./quick-outcome.ts";
import { SessionTable } from "./session-table.ts";
import { SpillFile, type SpillOptions } from "./spill-file.ts";

const listBatch = 16;

type SessionHandlers = Pick<
  Handlers,
  | "sessionCreate"
  | "sessionAttach"
  | "sessionList"
  | "sessionSignal"
  | "sessionResize"
  | "sessionWait"
  | "sessionRemove"
>;

/** Handlers for the sessions of this machine, which live as long as the agent. */
export function execSessions(start: StartCommand, spill: SpillOptions): SessionHandlers {
  const sessions = new SessionTable();
  return {
    async sessionCreate(request, stream) {
      const { attach, transient, keepOutput } = request;
      const started = await startCommandOf(sessions, request, start);
      const add = (): ExecSession => {
        using _ = started.place;
        const session = new ExecSession({
          ...started,
          log: new OutputLog(new SpillFile(spill), { keepAll: keepOutput }),
        });
        sessions.add(session);
        return session;
      };
      const { outcome } = started;
      if (outcome === undefined) {
        const session = add();
        if (!attach) return session.info();
        const info = await (request.purpose === "private"
          ? session.attachAlone(stream)
          : session.attach(stream, { fromStart: true, pipes: [] }));
        if (transient) session.delivered = true;
        return info;
      }
      // The creator is answered first. Other calls for this session wait until its place is filled.
      setImmediate(() => {
        add().delivered = transient;
      });
      if (request.announce) await announce(started, stream);
      await sendOutput(outcome, stream);
      return endedInfo({ ...started, outcome });
    },
    async sessionAttach({ id, fromStart, pipes }, stream) {
      const session = await sessions.get(id);
      return await session.attach(stream, { fromStart, pipes });
    },
    async sessionList(_, stream) {
      await sendList(sessions.listed(), stream);
      return {};
    },
    async sessionSignal({ id, signal }) {
      (await sessions.get(id)).signal(signal);
      return {};
    },
    async sessionResize({ id, size }) {
      const session = await sessions.get(id);
      if (size !== undefined) session.resize(size);
      return {};
    },
    async sessionWait({ id, waitMs }, stream) {
      const session = await sessions.get(id);
      session.delivered = false;
      if (session.isRunning && waitMs > 0) await endOrTimeout(session, waitMs, stream.signal);
      return session.info();
    },
    async sessionRemove({ id }) {
      sessions.remove(await sessions.get(id));
      return {};
    },
  };
}

/** Sends the process id of a session that has already ended to the client that created it. */
async function announce({ request, command, startedMs }: StartedSession, stream: Stream): Promise<void> {
  const { id, purpose } = request;
  const info = create(SessionInfoSchema, { id, purpose, startedMs: BigInt(startedMs), pid: command.pid });
  const attached = { event: { case: "attached", value: info } } as const;
  await stream.sendMessage(SessionEventSchema, create(SessionEventSchema, attached));
}

/** A started command that becomes a session; its place is released when the session has been added. */
interface StartedSession extends Omit<SessionStart, "log"> {
  readonly place: Disposable;
}

async function startCommandOf(
  sessions: SessionTable,
  request: SessionCreateRequest,
  start: StartCommand,
): Promise<StartedSession> {
  const { id, command: wanted, terminal, attach } = request;
  using undo = new DisposableStack();
  const place = undo.use(sessions.reserve(id));
  if (wanted === undefined) throw new SandboxError("invalid_argument", "the request has no command");
  const command = start(wanted, terminal);
  const startedMs = Date.now();
  // A caller that does not attach only needs to know that the command has started.
  const outcome = attach ? await quickOutcome(command, wanted.timeoutMs) : undefined;
  undo.move();
  return { request, command, startedMs, place, ...(outcome && { outcome }) };
}

async function endOrTimeout(session: ExecSession, milliseconds: number, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal]);
  // However the wait ends, the answer is the state at that moment.
  const time = sleep(milliseconds, undefined, { signal: until }).catch(() => undefined);
  await Promise.race([session.ended, time]);
  ended.abort();
}

async function sendList(sessions: readonly ExecSession[], stream: Stream): Promise<void> {
  for (let at = 0; at < sessions.length; at += listBatch) {
    const batch = sessions.slice(at, at + listBatch).map((session) => session.info());
    await stream.sendMessage(SessionInfosSchema, create(SessionInfosSchema, { sessions: batch }));
  }
}
