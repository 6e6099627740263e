import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SandboxId } from "../../ids.ts";
import type { FileChange, FileEntry } from "../files.ts";
import type {
  AttachOptions,
  EndedSession,
  ExecSession,
  NewExecSession,
  RunRequest,
  SessionPurpose,
} from "../sessions.ts";
import type * as pb from "./worker_pb.js";

// Conversions between the interface `Guest` and the messages of the worker wire. A field with a word that this version
// does not know, from a newer peer, gets the most general word that it knows.

/** A caller that leaves kills the command by a call of its own, so `kill` never crosses the wire. */
export function sessionToWire(
  sandboxId: SandboxId,
  request: NewExecSession | RunRequest,
): MessageInitShape<typeof pb.CreateSessionRequestSchema> {
  const { id, command, purpose, keepOutput, whenDetached, terminal } = request;
  const { argv, envs = {}, cwd, user, timeoutMs, stdin = false } = command;
  return {
    sandboxId,
    sessionId: id,
    command: {
      argv: [...argv],
      envs: { ...envs },
      stdin,
      ...(cwd === undefined ? {} : { cwd }),
      ...(user === undefined ? {} : { user }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    },
    ...{ purpose, keepOutput },
    ...(typeof whenDetached === "object" ? { killAfterMs: whenDetached.killAfterMs } : {}),
    ...(terminal === undefined ? {} : { terminal: { columns: terminal.columns, rows: terminal.rows } }),
    transient: "transient" in request && request.transient,
    announce: "announce" in request && request.announce,
  };
}

export function sessionFromWire(message: pb.CreateSessionRequest): RunRequest & NewExecSession {
  const { sessionId, command, purpose, keepOutput, killAfterMs, terminal, transient, announce } = message;
  const { argv = [], envs = {}, cwd, user, timeoutMs, stdin = false } = command ?? {};
  return {
    id: sessionId,
    command: {
      ...{ argv, envs, stdin },
      ...(cwd === undefined ? {} : { cwd }),
      ...(user === undefined ? {} : { user }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    },
    purpose: purposeFrom(purpose),
    keepOutput,
    whenDetached: killAfterMs === undefined ? "keep" : { killAfterMs },
    ...(terminal === undefined ? {} : { terminal: { columns: terminal.columns, rows: terminal.rows } }),
    ...{ transient, announce },
  };
}

export function attachToWire(
  sandboxId: SandboxId,
  sessionId: string,
  { fromStart, pipe }: AttachOptions,
): MessageInitShape<typeof pb.AttachSessionRequestSchema> {
  return { sandboxId, sessionId, fromStart, ...(pipe === undefined ? {} : { pipe }) };
}

export function attachFromWire({ fromStart, pipe }: pb.AttachSessionRequest): AttachOptions {
  return { fromStart, ...(pipe === "stdout" || pipe === "stderr" ? { pipe } : {}) };
}

export function endedToWire({ end, truncated }: EndedSession): MessageInitShape<typeof pb.SessionEndedSchema> {
  return { end: { exitCode: end.exitCode, signal: end.signal, timedOut: end.timedOut }, truncated };
}

/** Undefined when the peer did not say how the command ended. */
export function endedFromWire({ end, truncated }: pb.SessionEnded): EndedSession | undefined {
  return end && { end: { exitCode: end.exitCode, signal: end.signal, timedOut: end.timedOut }, truncated };
}

export function execSessionToWire(session: ExecSession): MessageInitShape<typeof pb.ExecSessionSchema> {
  const { id, argv, end, endedMs, pid, ...rest } = session;
  return {
    ...rest,
    sessionId: id,
    argv: [...argv],
    ...(end === undefined ? {} : { end: { ...end } }),
    ...(endedMs === undefined ? {} : { endedMs }),
    ...(pid === undefined ? {} : { pid }),
  };
}

export function execSessionFromWire(session: pb.ExecSession): ExecSession {
  const { sessionId, argv, purpose, terminal, startedMs, attached, end, endedMs } = session;
  const { stdoutBytes, stderrBytes, truncated, pid } = session;
  return {
    id: sessionId,
    argv,
    purpose: purposeFrom(purpose),
    ...{ terminal, startedMs, attached },
    ...(end === undefined ? {} : { end: { exitCode: end.exitCode, signal: end.signal, timedOut: end.timedOut } }),
    ...(endedMs === undefined ? {} : { endedMs }),
    ...{ stdoutBytes, stderrBytes, truncated },
    ...(pid === undefined ? {} : { pid }),
  };
}

const purposes: readonly SessionPurpose[] = ["exec", "run", "terminal", "agent", "private"];

function purposeFrom(word: string): SessionPurpose {
  return purposes.find((known) => known === word) ?? "exec";
}

export function entryToWire({ linkTarget, ...entry }: FileEntry): MessageInitShape<typeof pb.FileEntrySchema> {
  return { ...entry, ...(linkTarget === undefined ? {} : { linkTarget }) };
}

export function entryFromWire(entry: pb.FileEntry): FileEntry {
  const { name, path, kind, size, mode, modifiedMs, owner, group, linkTarget } = entry;
  return {
    ...{ name, path, size, mode, modifiedMs, owner, group },
    kind: kind === "file" || kind === "directory" || kind === "symlink" ? kind : "other",
    ...(linkTarget === undefined ? {} : { linkTarget }),
  };
}

/** A change of an unknown kind counts as lost changes: its reader looks again. */
export function changeFromWire({ kind, path }: pb.FileChange): FileChange {
  return { kind: kind === "created" || kind === "changed" || kind === "removed" ? kind : "lost", path };
}
