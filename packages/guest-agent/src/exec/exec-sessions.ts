import { create } from "@bufbuild/protobuf";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type SessionCreateRequest,
  type SessionInfo,
  SessionInfosSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import type { Handlers } from "#server.ts";
import type { StartCommand } from "./command.ts";
import { ExecSession } from "./exec-session.ts";
import { OutputLog } from "./output-log.ts";
import { type QuickOutcome, quickOutcome, sendOutput } from "./quick-outcome.ts";
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

/** The sessions of this machine, and what can be asked of them. They live as long as the agent does. */
export function execSessions(start: StartCommand, spill: SpillOptions): SessionHandlers {
  const sessions = new SessionTable();
  return {
    async sessionCreate(request, stream) {
      const { session, outcome } = await begin(sessions, request, { start, spill });
      if (!request.attach) return session.info();
      const info = outcome === undefined ? await attach(session, stream) : await tell(session, outcome, stream);
      if (request.transient) session.told = true;
      return info;
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
      session.told = false;
      if (session.isRunning && waitMs > 0) await endOrTimeout(session, waitMs, stream.signal);
      return session.info();
    },
    async sessionRemove({ id }) {
      sessions.remove(await sessions.get(id));
      return {};
    },
  };
}

async function begin(
  sessions: SessionTable,
  request: SessionCreateRequest,
  { start, spill }: { start: StartCommand; spill: SpillOptions },
): Promise<{ readonly session: ExecSession; readonly outcome: QuickOutcome | undefined }> {
  const { id, command: wanted, terminal, attach, keepOutput } = request;
  using _ = sessions.reserve(id);
  if (wanted === undefined) throw new SandboxError("invalid_argument", "a session needs a command", undefined);
  const command = start(wanted, terminal);
  const startedMs = Date.now();
  // Who only wants to know that it has begun is not kept waiting.
  const outcome = attach ? await quickOutcome(command, wanted.timeoutMs) : undefined;
  const log = new OutputLog(new SpillFile(spill), { keepAll: keepOutput });
  const session = new ExecSession({ request, command, startedMs, log, ...(outcome && { outcome }) });
  sessions.add(session);
  return { session, outcome };
}

async function attach(session: ExecSession, stream: Stream): Promise<SessionInfo> {
  return await session.attach(stream, { fromStart: true, pipes: [] });
}

/** To who has created a session that has ended already. */
async function tell(session: ExecSession, outcome: QuickOutcome, stream: Stream): Promise<SessionInfo> {
  await sendOutput(outcome, stream);
  return session.briefInfo();
}

async function endOrTimeout(session: ExecSession, milliseconds: number, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal]);
  // However it ends, what is known then is the answer.
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
