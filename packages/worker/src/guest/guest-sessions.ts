import type { MessageInitShape } from "@bufbuild/protobuf";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
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
  NewExecSession,
  SessionPurpose,
  TerminalSize,
} from "@opensandbox/wire/worker/worker.ts";
import { type GuestClient, replyOf } from "./guest-client.ts";

export async function createSession(
  guest: GuestClient,
  request: NewExecSession,
  signal: AbortSignal,
): Promise<ExecSession> {
  return sessionOf(await guest.call(methods.sessionCreate, creationOf(request), signal));
}

export async function runSession(
  guest: GuestClient,
  request: NewExecSession & { readonly transient: boolean },
  signal: AbortSignal,
): Promise<AttachedSession> {
  const creation = { ...creationOf(request), attach: true, transient: request.transient };
  return await attachedBy(methods.sessionCreate, await guest.open(methods.sessionCreate, creation, signal));
}

export async function attachSession(
  guest: GuestClient,
  id: string,
  { fromStart, pipe }: AttachOptions,
  signal: AbortSignal,
): Promise<AttachedSession> {
  const request = { id, fromStart, pipes: pipe === undefined ? [] : [execPipes[pipe]] };
  return await attachedBy(methods.sessionAttach, await guest.open(methods.sessionAttach, request, signal));
}

export async function listSessions(guest: GuestClient, signal: AbortSignal): Promise<ExecSession[]> {
  const stream = await guest.open(methods.sessionList, {}, signal);
  const sessions: ExecSession[] = [];
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "end") return sessions;
    const infos = incoming.kind === "message" ? parse(SessionInfosSchema, incoming.payload) : undefined;
    if (infos === undefined) throw giveUp(stream);
    sessions.push(...infos.sessions.map(sessionOf));
  }
}

export async function waitForSession(
  guest: GuestClient,
  id: string,
  milliseconds: number,
  signal: AbortSignal,
): Promise<ExecSession> {
  return sessionOf(await guest.call(methods.sessionWait, { id, waitMs: milliseconds }, signal));
}

export async function signalSession(
  guest: GuestClient,
  id: string,
  number: number,
  signal: AbortSignal,
): Promise<void> {
  await guest.call(methods.sessionSignal, { id, signal: number }, signal);
}

export async function resizeSession(
  guest: GuestClient,
  id: string,
  { columns, rows }: TerminalSize,
  signal: AbortSignal,
): Promise<void> {
  await guest.call(methods.sessionResize, { id, size: { columns, rows } }, signal);
}

export async function removeSession(guest: GuestClient, id: string, signal: AbortSignal): Promise<void> {
  await guest.call(methods.sessionRemove, { id }, signal);
}

function creationOf(request: NewExecSession): MessageInitShape<typeof SessionCreateRequestSchema> {
  const { id, command, purpose, keepOutput, detachedMs, terminal } = request;
  const { argv, envs = {}, cwd = "", user = "", timeoutMs = 0, stdin = false } = command;
  return {
    id,
    command: { argv: [...argv], envs: { ...envs }, cwd, user, timeoutMs, stdin },
    purpose,
    keepOutput,
    detachedMs,
    ...(terminal === undefined ? {} : { terminal: { columns: terminal.columns, rows: terminal.rows } }),
  };
}

type Attaching = typeof methods.sessionCreate | typeof methods.sessionAttach;

async function attachedBy(method: Attaching, stream: Stream): Promise<AttachedSession> {
  const first = await stream.next();
  const event = first.kind === "message" ? parse(SessionEventSchema, first.payload)?.event : undefined;
  if (first.kind === "message" && event?.case !== "attached") throw giveUp(stream);
  const session = event?.case === "attached" ? sessionOf(event.value) : undefined;
  const end = Promise.withResolvers<EndedSession>();
  // The output rejects with the same error; who takes only that need not take this too.
  end.promise.catch(() => undefined);
  return {
    startedMs: session?.startedMs ?? Date.now(),
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
    // Reached early when nobody takes the output any more; after the end it does nothing.
    const detached = new SandboxError("canceled", "detached from the session");
    stream.reset(detached);
    end.reject(detached);
  }
}

function endedSession(method: Method, payload: Uint8Array): EndedSession {
  const { end, truncated } = sessionOf(replyOf(method, payload) as SessionInfo);
  if (end === undefined) throw new SandboxError("unavailable", "the guest agent did not say how it ended");
  return { end, truncated };
}

/** A command that has ended takes no input: that is no error of the sender's. */
async function untilEnd(sending: Promise<void>): Promise<void> {
  try {
    await sending;
  } catch (error) {
    if (asSandboxError(error).code !== "canceled") throw error;
  }
}

function sessionOf(info: SessionInfo): ExecSession {
  const { id, argv, terminal, attached, result, truncated } = info;
  return {
    id,
    argv,
    purpose: purposes.find((known) => known === info.purpose) ?? "exec",
    terminal,
    startedMs: Number(info.startedMs),
    attached,
    ...(result === undefined
      ? {}
      : {
          end: { exitCode: result.exitCode, signal: result.signal, timedOut: result.timedOut },
          endedMs: Number(info.endedMs),
        }),
    stdoutBytes: Number(info.stdoutBytes),
    stderrBytes: Number(info.stderrBytes),
    truncated,
  };
}

const purposes: readonly SessionPurpose[] = ["exec", "run", "terminal", "agent"];

function giveUp(stream: Stream): SandboxError {
  const error = new SandboxError("unavailable", "the guest agent gave no valid answer");
  stream.reset(error);
  return error;
}
