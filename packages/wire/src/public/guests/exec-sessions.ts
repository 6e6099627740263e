import { z } from "zod";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";
import type { ExecEnd, ExecOutput, ExecSession, NewExecSession, TerminalSize, WhenDetached } from "#worker/sessions.ts";
import { Command, execOf, exitCodeOf, timeout } from "./execs.ts";

const sizeRule = "cols and rows must be whole numbers from 1 to 65535";
const Cells = z.int(sizeRule).min(1, sizeRule).max(65_535, sizeRule);

const defaultSize: TerminalSize = { columns: 80, rows: 24 };

// The guest counts milliseconds in 32 bits.
const maxDetachedSeconds = 4_000_000;
const detachedRule = `maxRunAfterDisconnect must be seconds from 0 to ${maxDetachedSeconds} (0: for ever)`;

export const StartSessionBody = Command.extend({
  timeout: timeout("none"),
  maxRunAfterDisconnect: z
    .number(detachedRule)
    .min(0, detachedRule)
    .max(maxDetachedSeconds, detachedRule)
    .optional()
    .meta({
      description: "Seconds from the moment the last client has gone until it is killed. Default: 0, for ever.",
    }),
  pty: z.boolean().optional().meta({ description: "Its input and output are a terminal. Default: false." }),
  cols: Cells.optional().meta({ description: `Of the terminal. Default: ${defaultSize.columns}.` }),
  rows: Cells.optional().meta({ description: `Of the terminal. Default: ${defaultSize.rows}.` }),
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
  summary: "Start a command that runs whether or not anybody listens",
  description:
    "It goes on while the sandbox hibernates and when the server restarts. Attach to it to hear and to write.",
  access: "key",
  body: StartSessionBody,
  status: 201,
  reply: SessionReply,
};

export const listSessions: Route<unknown, unknown, SessionReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/exec",
  name: "listSessions",
  summary: "List the exec sessions that run or have ended in the last five minutes",
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
    "The key comes in X-API-Key or `?api_key=`. Any number of clients may be attached. Messages are binary, and their " +
    "first byte says what follows.\n\nFrom the server: 0x01 stdout; 0x02 stderr; 0x04, once: all that was written " +
    "before the attach and is still kept (about 1 MiB) has been sent, what follows is new; 0x03 exit code, int32 " +
    "big-endian, -1 when a signal or the timeout ended it, after all of its output; then the close 1000. A connection " +
    "that ends in another way says nothing of the command, which goes on: attach again.\n\nFrom the client: 0x00 " +
    "stdin; 0x05 end of stdin. Messages that begin otherwise are ignored.",
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
      .meta({ description: "A program. Default: /bin/bash, or /bin/sh where there is none." }),
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
  summary: "Open a terminal with a shell in it",
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
    "The key comes in X-API-Key or `?api_key=`. Messages are the terminal's bytes, with nothing around them; a client " +
    "may send text or binary ones. What was written before the attach and is still kept (about 1 MiB) comes first. When " +
    "the shell ends the connection is closed with 1000; one that ends in another way says nothing of the shell, which " +
    "goes on: attach again.",
  access: "key",
  status: 101,
};

export const ResizeBody = z.object({ cols: Cells, rows: Cells }).meta({ id: "ResizeTerminal" });
export type ResizeBody = z.infer<typeof ResizeBody>;

export const resizeTerminal: Route<ResizeBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/pty/:sessionId/resize",
  name: "resizeTerminal",
  summary: "Change the size of a terminal",
  access: "key",
  body: ResizeBody,
  status: 200,
};

export const closeTerminal: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id/pty/:sessionId",
  name: "closeTerminal",
  summary: "Kill everything that runs in a terminal and remove it",
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

/** Undefined for a message of a kind that is not known. */
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

/** Undefined for a message of a kind that is not known. */
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

/** The session in the project's own words. */
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

/** A shell in a terminal; without a program the guest has one to choose. */
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

/** How the end of a session is told to those attached. */
export function exitFrameOf(end: ExecEnd): ServerFrame {
  return { pipe: "exit", exitCode: exitCodeOf(end) };
}

/** As it was asked for: a line for the shell stands alone. */
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

/** What a session that does not exist is answered with. */
export function noSuchSession(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "session not found", { resource: "exec session", id });
}
