import { deferred } from "#transport/deferred.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  attachSession,
  decodeServerFrame,
  encodeClientFrame,
  killSession,
  listSessions,
  resizeTerminal,
  startSession,
} from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { SessionReply, StartSessionBody } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { ExecOutput, ExecRequest } from "./exec.ts";
import type { HttpClient } from "#transport/http.ts";
import type { OpenSocket, Socket } from "#transport/socket.ts";

export interface StartSession extends ExecRequest {
  /** Run the command in a terminal of this size. */
  readonly terminal?: TerminalSize;
  /** Seconds until a session without clients is killed; 0: never. Default: 0. */
  readonly maxRunAfterDisconnect?: number;
  /** The sandbox is not idle while the command runs. Default: false. */
  readonly keepAwake?: boolean;
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A command that runs without a client. */
export interface ExecSession {
  readonly id: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly running: boolean;
  /** -1: ended by a signal or by the timeout. */
  readonly exitCode?: number;
  readonly startedAt: string;
  readonly attachedClients: number;
  readonly terminal: boolean;
}

/** A connection to a session. Closing it, or aborting its signal, leaves the command running. */
export interface AttachedSession {
  /** The kept output, then new output. Ends with the command. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Settles when `output` ends. Rejects when the connection ends before the command does. */
  readonly exitCode: Promise<number>;
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  detach(): void;
}

export interface SessionsClient {
  start(id: string, request: StartSession, signal?: AbortSignal): Promise<ExecSession>;
  /** The sessions that run or ended within the last five minutes. */
  list(id: string, signal?: AbortSignal): Promise<readonly ExecSession[]>;
  attach(id: string, sessionId: string, signal?: AbortSignal): Promise<AttachedSession>;
  /** The kept output, about 1 MiB. Does not wait for more. */
  logs(id: string, sessionId: string, signal?: AbortSignal): AsyncIterable<ExecOutput>;
  /** Sends a signal to the session's process group. Default: 9. */
  kill(id: string, sessionId: string, number?: number, signal?: AbortSignal): Promise<void>;
  /** Resizes the session's terminal. */
  resize(id: string, sessionId: string, size: TerminalSize, signal?: AbortSignal): Promise<void>;
}

export function sessionsClient(http: HttpClient, openSocket: OpenSocket): SessionsClient {
  return {
    async start(id, { terminal, args, envs, ...rest }, signal) {
      const body = {
        ...rest,
        ...(args === undefined ? {} : { args: [...args] }),
        ...(envs === undefined ? {} : { envs: { ...envs } }),
        ...(terminal === undefined ? {} : { pty: true, cols: terminal.columns, rows: terminal.rows }),
      } as StartSessionBody;
      return sessionOf(await http.call(startSession, { parameters: { id }, body }, signal));
    },
    async list(id, signal) {
      return (await http.call(listSessions, { parameters: { id } }, signal)).map(sessionOf);
    },
    async attach(id, sessionId, signal) {
      return attached(await openSocket(await http.socketUrl(attachSession, { id, sessionId }), signal));
    },
    async *logs(id, sessionId, signal) {
      yield* keptOutput(await openSocket(await http.socketUrl(attachSession, { id, sessionId }), signal));
    },
    async kill(id, sessionId, number, signal) {
      const body = number === undefined ? {} : { signal: number };
      await http.call(killSession, { parameters: { id, sessionId }, body }, signal);
    },
    async resize(id, sessionId, { columns, rows }, signal) {
      await http.call(resizeTerminal, { parameters: { id, sessionId }, body: { cols: columns, rows } }, signal);
    },
  };
}

export function attached(socket: Socket): AttachedSession {
  const exit = deferred<number>();
  // A caller that reads only `output` sees the failure there.
  exit.promise.catch(() => undefined);

  async function* output(): AsyncGenerator<ExecOutput, void> {
    try {
      for await (const message of socket.messages) {
        const frame = typeof message === "string" ? undefined : decodeServerFrame(message);
        if (frame?.pipe === "exit") exit.resolve(frame.exitCode);
        else if (frame?.pipe === "stdout" || frame?.pipe === "stderr") yield frame;
      }
      throw new SandboxError(
        "unavailable",
        "the connection to the server ended; the command still runs, attach to it again",
      );
    } catch (error) {
      // A connection that breaks after the exit lost nothing.
      const code = await Promise.race([exit.promise, Promise.resolve(undefined)]).catch(() => undefined);
      if (code !== undefined) return;
      exit.reject(error);
      throw error;
    } finally {
      exit.reject(new SandboxError("canceled", "the output was not read to its end"));
      socket.close();
    }
  }

  return {
    output: output(),
    exitCode: exit.promise,
    write: async (bytes) => await socket.send(encodeClientFrame({ kind: "stdin", bytes })),
    closeStdin: async () => await socket.send(encodeClientFrame({ kind: "stdin end" })),
    detach: () => socket.close(),
  };
}

async function* keptOutput(socket: Socket): AsyncGenerator<ExecOutput, void> {
  try {
    for await (const message of socket.messages) {
      const frame = typeof message === "string" ? undefined : decodeServerFrame(message);
      if (frame?.pipe === "scrollback end") return;
      if (frame?.pipe === "stdout" || frame?.pipe === "stderr") yield frame;
    }
    throw new SandboxError("unavailable", "the connection to the server ended before all kept output had arrived");
  } finally {
    socket.close();
  }
}

function sessionOf(reply: SessionReply): ExecSession {
  const { sessionID, command, args, running, exitCode, startedAt, attachedClients, pty } = reply;
  const known = { id: sessionID, command, args, running, startedAt, attachedClients, terminal: pty };
  return exitCode === undefined ? known : { ...known, exitCode };
}
