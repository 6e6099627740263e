import { z } from "zod";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";
import type { ExecEnd, ExecOutput, ExecSession, NewExecSession, TerminalSize, WhenDetached } from "#worker/sessions.ts";
import { Command, execOf, exitCodeOf, keepAwake, timeout } from "./execs.ts";

const sizeRule = "cols and rows must be whole numbers from 1 to 65535";
const Cells = z.int(sizeRule).min(1, sizeRule).max(65_535, sizeRule);

const defaultSize: TerminalSize = { columns: 80, rows: 24 };

// The guest counts milliseconds in 32 bits.
const maxDetachedSeconds = 4_000_000;
const detachedRule = `maxRunAfterDisconnect must be seconds from 0 to ${maxDetachedSeconds} (0: no limit)`;

export const StartSessionBody = Command.extend({
  timeout: timeout("none"),
  maxRunAfterDisconnect: z
    .number(detachedRule)
    .min(0, detachedRule)
    .max(maxDetachedSeconds, detachedRule)
    .optional()
    .meta({
      description: "Seconds after the last client has disconnected until the command is killed. Default: 0, no limit.",
    }),
  keepAwake,
  pty: z.boolean().optional().meta({ description: "Connect the command to a terminal. Default: false." }),
  cols: Cells.optional().meta({ description: `Columns of the terminal. Default: ${defaultSize.columns}.` }),
  rows: Cells.optional().meta({ description: `Rows of the terminal. Default: ${defaultSize.rows}.` }),
}).meta({ id: "StartSession" });
export type StartSessionBody = z.infer<typeof StartSessionBody>;

export const SessionReply = z
  .object({
    sessionID: z.string(),
    sandboxID: z.string(),
    command: z.string(),
    args: z.array(z.string()),
    running: z.boolean(),
    exitCode: z.int().optional().meta({ description: "-1 when a signal or the timeout ended it." }),
    startedAt: z.iso.datetime(),
    attachedClients: z.int(),
    pty: z.boolean(),
  })
  .meta({ id: "ExecSession" });
export type SessionReply = z.infer<typeof SessionReply>;

export const startSession: Route<StartSessionBody, unknown, SessionReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/exec",
  name: "startSession",
  summary: "Start a command that runs whether or not a client is attached",
  description:
    "The command survives hibernation of the sandbox and a restart of the server. Attach to it to read its output and to write its input.",
  access: "key",
  body: StartSessionBody,
  status: 201,
  reply: SessionReply,
};

export const listSessions: Route<unknown, unknown, SessionReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/exec",
  name: "listSessions",
  summary: "List exec sessions that run or ended in the last five minutes",
  access: "key",
  status: 200,
  reply: z.array(SessionReply),
};

export const attachSession: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/exec/:sessionId",
  name: "attachSession",
  summary: "Attach to an exec session over a WebSocket",
  description:
    "The key is sent as X-API-Key or `?api_key=`. Any number of clients may attach. Messages are binary; the first byte " +
    "is their kind.\n\nFrom the server: 0x01 stdout; 0x02 stderr; 0x04, once, when the scrollback (about 1 MiB from " +
    "before the attach) has been sent and new output follows; 0x03 exit code as int32 big-endian, -1 when a signal or " +
    "the timeout ended the command, after all output, followed by the close 1000. Any other end of the connection does " +
    "not affect the command: attach again.\n\nFrom the client: 0x00 stdin; 0x05 end of stdin. Messages of other kinds " +
    "are ignored.",
  access: "key",
  status: 101,
};

const signalRule = "signal must be a number from 1 to 64";

export const KillBody = z
  .object({
    signal: z.int(signalRule).min(1, signalRule).max(64, signalRule).optional().meta({ description: "Default: 9." }),
  })
  .meta({ id: "KillSession" });
export type KillBody = z.infer<typeof KillBody>;

export const killSession: Route<KillBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/exec/:sessionId/kill",
  name: "killSession",
  summary: "Send a signal to the process group of an exec session",
  access: "key",
  body: KillBody,
  status: 204,
};

export const StartTerminalBody = z
  .object({
    cols: Cells.optional(),
    rows: Cells.optional(),
    shell: z
      .string()
      .optional()
      .meta({ description: "The program to run. Default: /bin/bash, or /bin/sh when the image has no bash." }),
    cwd: Command.shape.cwd,
    envs: Command.shape.envs,
    user: Command.shape.user,
  })
  .meta({ id: "StartTerminal" });
export type StartTerminalBody = z.infer<typeof StartTerminalBody>;

const TerminalReply = z.object({ sessionID: z.string(), sandboxID: z.string() }).meta({ id: "Terminal" });
type TerminalReply = z.infer<typeof TerminalReply>;

export const startTerminal: Route<StartTerminalBody, unknown, TerminalReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/pty",
  name: "startTerminal",
  summary: "Start a shell in a terminal",
  access: "key",
  body: StartTerminalBody,
  status: 201,
  reply: TerminalReply,
};

export const attachTerminal: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/pty/:sessionId",
  name: "attachTerminal",
  summary: "Attach to a terminal over a WebSocket",
  description:
    "The key is sent as X-API-Key or `?api_key=`. Messages are the terminal's bytes without framing; a client may send " +
    "text or binary messages. The scrollback (about 1 MiB from before the attach) comes first. When the shell ends, the " +
    "connection closes with 1000. Any other end of the connection does not affect the shell: attach again.",
  access: "key",
  status: 101,
};

export const ResizeBody = z.object({ cols: Cells, rows: Cells }).meta({ id: "ResizeTerminal" });
export type ResizeBody = z.infer<typeof ResizeBody>;

export const resizeTerminal: Route<ResizeBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/pty/:sessionId/resize",
  name: "resizeTerminal",
  summary: "Resize a terminal",
  access: "key",
  body: ResizeBody,
  status: 200,
};

export const closeTerminal: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id/pty/:sessionId",
  name: "closeTerminal",
  summary: "Kill every process of a terminal and remove it",
  access: "key",
  status: 204,
};

/** First byte of a message of an attached exec session. */
export const sessionFrame = {
  stdin: 0x00,
  stdout: 0x01,
  stderr: 0x02,
  exit: 0x03,
  scrollbackEnd: 0x04,
  /** Our own: the published clients do not send it. */
  stdinEnd: 0x05,
} as const;

export type ServerFrame =
  | ExecOutput
  | { readonly pipe: "exit"; readonly exitCode: number }
  | { readonly pipe: "scrollback end" };

export function encodeServerFrame(frame: ServerFrame): Uint8Array<ArrayBuffer> {
  switch (frame.pipe) {
    case "stdout":
    case "stderr":
      return framed(sessionFrame[frame.pipe], frame.bytes);
    case "exit": {
      const code = new Uint8Array(4);
      new DataView(code.buffer).setInt32(0, frame.exitCode);
      return framed(sessionFrame.exit, code);
    }
    case "scrollback end":
      return framed(sessionFrame.scrollbackEnd, new Uint8Array(0));
  }
}

/** Undefined for a message of an unknown kind. */
export function decodeServerFrame(message: Uint8Array): ServerFrame | undefined {
  const bytes = message.subarray(1);
  switch (message[0]) {
    case sessionFrame.stdout:
      return { pipe: "stdout", bytes };
    case sessionFrame.stderr:
      return { pipe: "stderr", bytes };
    case sessionFrame.exit:
      if (bytes.length < 4) return undefined;
      return { pipe: "exit", exitCode: new DataView(bytes.buffer, bytes.byteOffset).getInt32(0) };
    case sessionFrame.scrollbackEnd:
      return { pipe: "scrollback end" };
    case undefined:
    default:
      return undefined;
  }
}

export type ClientFrame = { readonly kind: "stdin"; readonly bytes: Uint8Array } | { readonly kind: "stdin end" };

export function encodeClientFrame(frame: ClientFrame): Uint8Array<ArrayBuffer> {
  return frame.kind === "stdin"
    ? framed(sessionFrame.stdin, frame.bytes)
    : framed(sessionFrame.stdinEnd, new Uint8Array(0));
}

/** Undefined for a message of an unknown kind. */
export function decodeClientFrame(message: Uint8Array): ClientFrame | undefined {
  switch (message[0]) {
    case sessionFrame.stdin:
      return { kind: "stdin", bytes: message.subarray(1) };
    case sessionFrame.stdinEnd:
      return { kind: "stdin end" };
    case undefined:
    default:
      return undefined;
  }
}

/** Translates a request into the project's own terms. */
export function sessionFrom(id: string, body: StartSessionBody): NewExecSession {
  return {
    id,
    command: { ...execOf(body, body.timeout ?? 0), stdin: true },
    purpose: "exec",
    keepOutput: false,
    whenDetached: whenDetachedOf(body.maxRunAfterDisconnect ?? 0),
    ...(body.pty === true ? { terminal: sizeFrom(body) } : {}),
  };
}

function whenDetachedOf(maxSeconds: number): WhenDetached {
  return maxSeconds === 0 ? "keep" : { killAfterMs: Math.ceil(maxSeconds * 1000) };
}

/** A shell in a terminal. Without a program, the guest chooses the shell. */
export function terminalFrom(id: string, body: StartTerminalBody): NewExecSession {
  const { shell = "", cwd = "", envs, user = "" } = body;
  return {
    id,
    command: {
      argv: shell === "" ? [] : [shell],
      ...(cwd === "" ? {} : { cwd }),
      ...(envs === undefined ? {} : { envs }),
      ...(user === "" ? {} : { user }),
    },
    purpose: "terminal",
    keepOutput: false,
    whenDetached: "keep",
    terminal: sizeFrom(body),
  };
}

export function sizeFrom({ cols, rows }: { cols?: number | undefined; rows?: number | undefined }): TerminalSize {
  return { columns: cols ?? defaultSize.columns, rows: rows ?? defaultSize.rows };
}

export function sessionReplyOf(sandboxId: string, session: ExecSession): SessionReply {
  const { id, end, startedMs, attached, terminal } = session;
  return {
    sessionID: id,
    sandboxID: sandboxId,
    ...commandLineOf(session.argv),
    running: end === undefined,
    ...(end === undefined ? {} : { exitCode: exitCodeOf(end) }),
    startedAt: new Date(startedMs).toISOString(),
    attachedClients: attached,
    pty: terminal,
  };
}

/** The frame that reports the end of a session to attached clients. */
export function exitFrameOf(end: ExecEnd): ServerFrame {
  return { pipe: "exit", exitCode: exitCodeOf(end) };
}

/** The command as it was requested: a shell line has no arguments. */
function commandLineOf(argv: readonly string[]): { command: string; args: string[] } {
  const [first = "", second, third = ""] = argv;
  if (argv.length === 3 && first === "/bin/sh" && second === "-c") return { command: third, args: [] };
  return { command: first, args: argv.slice(1) };
}

function framed(kind: number, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(1 + bytes.length);
  message[0] = kind;
  message.set(bytes, 1);
  return message;
}

/** The refusal for a session that does not exist. */
export function noSuchSession(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "session not found", { resource: "exec session", id });
}
