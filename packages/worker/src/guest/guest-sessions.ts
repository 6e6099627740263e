import type { MessageInitShape } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type Incoming, parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type SessionCreateRequestSchema,
  SessionEventSchema,
  type SessionInfo,
  SessionInfosSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes, type Method, methods } from "@opensandbox/wire/guest/methods.ts";
import type {
  AttachedSession,
  AttachOptions,
  EndedSession,
  ExecOutput,
  ExecSession,
  GuestSessions,
  NewExecSession,
  RunRequest,
  SessionPurpose,
} from "@opensandbox/wire/worker/sessions.ts";
import { collect } from "./collect.ts";
import { type GuestClient, invalidAnswer, replyOf, untilEnd } from "./guest-client.ts";
import { timeFrom } from "./guest-time.ts";

/** How long the guest may take to kill a command that its caller has left. */
const killMs = 30_000;

/** More sessions than any agent keeps: it forgets ended ones beyond 2000, and each running one is a process. */
const sessionLimits = { entries: 50_000, bytes: 16 * 2 ** 20 };

/** The sessions of the guest that `connected` returns; without a guest `connected` throws. */
export function guestSessions(connected: () => GuestClient): GuestSessions {
  return {
    async create(request, signal) {
      return sessionOf(await connected().call(methods.sessionCreate, creationOf(request), signal));
    },
    async run(request, signal) {
      return await run(connected(), request, signal);
    },
    async attach(sessionId, options, signal) {
      return await attach(connected(), sessionId, options, signal);
    },
    async list(signal) {
      const stream = await connected().open(methods.sessionList, {}, signal);
      const sessions = await collect(stream, SessionInfosSchema, (infos) => infos.sessions, {
        ...sessionLimits,
        excess: (limit) =>
          new SandboxError("unavailable", `the guest agent lists more sessions than it keeps: ${limit}`),
      });
      return sessions.map(sessionOf).filter(({ purpose }) => purpose !== "private");
    },
    async wait(sessionId, milliseconds, signal) {
      return sessionOf(await connected().call(methods.sessionWait, { id: sessionId, waitMs: milliseconds }, signal));
    },
    async signal(sessionId, number, signal) {
      await connected().call(methods.sessionSignal, { id: sessionId, signal: number }, signal);
    },
    async resize(sessionId, { columns, rows }, signal) {
      await connected().call(methods.sessionResize, { id: sessionId, size: { columns, rows } }, signal);
    },
    async remove(sessionId, signal) {
      await connected().call(methods.sessionRemove, { id: sessionId }, signal);
    },
  };
}

async function run(guest: GuestClient, request: RunRequest, signal: AbortSignal): Promise<AttachedSession> {
  const { id, transient, whenDetached, announce = false } = request;
  const creation = { ...creationOf(request), attach: true, transient, announce };
  const stream = await guest.open(methods.sessionCreate, creation, signal);
  // Registered before the first answer, for a caller that leaves while the command starts.
  if (whenDetached === "kill") killWhenGivenUp(guest, id, stream);
  const first = await stream.next();
  if (first.kind === "end" && replyOf(methods.sessionCreate, first.payload).result === undefined) {
    // Agents of the first snapshots create without attaching.
    const attached = await guest.open(methods.sessionAttach, { id, fromStart: true, pipes: [] }, signal);
    if (whenDetached === "kill") killWhenGivenUp(guest, id, attached);
    return attachedBy(methods.sessionAttach, attached, await attached.next());
  }
  return attachedBy(methods.sessionCreate, stream, first);
}

async function attach(
  guest: GuestClient,
  id: string,
  { fromStart, pipe }: AttachOptions,
  signal: AbortSignal,
): Promise<AttachedSession> {
  const request = { id, fromStart, pipes: pipe === undefined ? [] : [execPipes[pipe]] };
  const stream = await guest.open(methods.sessionAttach, request, signal);
  return attachedBy(methods.sessionAttach, stream, await stream.next());
}

/**
 * Kills the command of a session when this side gives its stream up. A call of its own, since agents of every protocol
 * version know it, and since a command outlives a line that breaks.
 */
function killWhenGivenUp(guest: GuestClient, id: string, stream: Stream): void {
  const kill = (): void => {
    if (!stream.givenUp) return;
    guest.call(methods.sessionRemove, { id }, AbortSignal.timeout(killMs)).catch((error: unknown) => {
      guest.reportLeftover(id, error);
    });
  };
  if (stream.signal.aborted) kill();
  else stream.signal.addEventListener("abort", kill, { once: true });
}

function creationOf(request: NewExecSession | RunRequest): MessageInitShape<typeof SessionCreateRequestSchema> {
  const { id, command, purpose, keepOutput, whenDetached, terminal } = request;
  const { argv, envs = {}, cwd = "", user = "", timeoutMs = 0, stdin = false } = command;
  return {
    id,
    command: { argv: [...argv], envs: { ...envs }, cwd, user, timeoutMs, stdin },
    purpose,
    keepOutput,
    detachedMs: typeof whenDetached === "object" ? whenDetached.killAfterMs : 0,
    ...(terminal === undefined ? {} : { terminal: { columns: terminal.columns, rows: terminal.rows } }),
  };
}

type Attaching = typeof methods.sessionCreate | typeof methods.sessionAttach;

function attachedBy(method: Attaching, stream: Stream, first: Incoming): AttachedSession {
  const event = first.kind === "message" ? parse(SessionEventSchema, first.payload)?.event : undefined;
  if (first.kind === "message" && event?.case !== "attached") throw invalidAnswer(stream);
  const session = event?.case === "attached" ? sessionOf(event.value) : undefined;
  const end = Promise.withResolvers<EndedSession>();
  // The output rejects with the same error: a caller that reads the output need not await the result.
  end.promise.catch(() => undefined);
  return {
    startedMs: session?.startedMs ?? Date.now(),
    ...(session?.pid === undefined ? {} : { pid: session.pid }),
    output: output(method, { stream, first: session === undefined ? first : undefined }, end),
    result: end.promise,
    write: (bytes) => untilEnd(stream.sendData(0, bytes)),
    closeStdin: () => untilEnd(stream.end()),
  };
}

async function* output(
  method: Attaching,
  { stream, first }: { readonly stream: Stream; first: Incoming | undefined },
  end: PromiseWithResolvers<EndedSession>,
): AsyncGenerator<ExecOutput | "scrollback end"> {
  try {
    for (let incoming = first ?? (await stream.next()); ; incoming = await stream.next()) {
      if (incoming.kind === "data") {
        yield { pipe: incoming.tag === execPipes.stderr ? "stderr" : "stdout", bytes: incoming.payload };
      } else if (incoming.kind === "message") {
        if (parse(SessionEventSchema, incoming.payload)?.event.case === "scrollbackEnd") yield "scrollback end";
      } else {
        end.resolve(endedSession(method, incoming.payload));
        return;
      }
    }
  } catch (error) {
    end.reject(error);
    throw error;
  } finally {
    // Reached before the end when the reader leaves; after the end this has no effect.
    const detached = new SandboxError("canceled", "detached from the session");
    stream.reset(detached);
    end.reject(detached);
  }
}

function endedSession(method: Method, payload: Uint8Array): EndedSession {
  const { end, truncated } = sessionOf(replyOf(method, payload) as SessionInfo);
  if (end === undefined) throw new SandboxError("unavailable", "the guest agent did not report how the command ended");
  return { end, truncated };
}

function sessionOf(info: SessionInfo): ExecSession {
  const { id, argv, terminal, attached, result, truncated, pid } = info;
  return {
    id,
    argv,
    purpose: purposes.find((known) => known === info.purpose) ?? "exec",
    terminal,
    startedMs: timeFrom(info.startedMs),
    attached,
    ...(result === undefined
      ? {}
      : {
          end: { exitCode: result.exitCode, signal: result.signal, timedOut: result.timedOut },
          endedMs: timeFrom(info.endedMs),
        }),
    stdoutBytes: Number(info.stdoutBytes),
    stderrBytes: Number(info.stderrBytes),
    truncated,
    ...(pid === 0 ? {} : { pid }),
  };
}

const purposes: readonly SessionPurpose[] = ["exec", "run", "terminal", "agent", "private"];
