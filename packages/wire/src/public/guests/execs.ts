import { z } from "zod";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";
import type { Exec, ExecEnd } from "#worker/sessions.ts";
import { envs, plainText } from "../fields.ts";

const defaultTimeoutSeconds = 60;
// The guest counts milliseconds in 32 bits.
const maxTimeoutSeconds = 4_000_000;
const timeoutRule = `timeout must be seconds from 0 to ${maxTimeoutSeconds} (0: none)`;

/** The fields of every request that runs a command. */
export const Command = z.object({
  cmd: z.string({ error: "cmd is required" }).min(1, "cmd is required").pipe(plainText("cmd")),
  args: z
    .array(plainText("args"))
    .optional()
    .meta({ description: "The arguments of the program `cmd`. Absent or empty: `cmd` is a line for /bin/sh -c." }),
  envs: envs.optional(),
  cwd: plainText("cwd", "Default: /home/sandbox.").optional(),
  user: plainText("user", "Default: sandbox.").optional(),
});

/** A timeout in seconds; `fallback` describes the default. */
export function timeout(fallback: string): z.ZodType<number | undefined> {
  return z
    .number({ error: timeoutRule })
    .min(0, timeoutRule)
    .max(maxTimeoutSeconds, timeoutRule)
    .optional()
    .meta({ description: `Seconds until the whole process group is killed; 0: never. Default: ${fallback}.` });
}

/** For commands that run on without a client. */
export const keepAwake = z.boolean().optional().meta({
  description: "The sandbox is not idle while the command runs. Default: false.",
});

export const RunBody = Command.extend({ timeout: timeout(`${defaultTimeoutSeconds}`) }).meta({ id: "Run" });
export type RunBody = z.infer<typeof RunBody>;

export const RunReply = z
  .object({
    exitCode: z.int().meta({ description: "-1 when a signal or the timeout ended the command." }),
    stdout: z.string(),
    stderr: z.string(),
    truncated: z
      .boolean()
      .optional()
      .meta({ description: "Output is missing: the sandbox's disk was full, or the output exceeded 4 GiB." }),
  })
  .meta({ id: "RunResult" });
export type RunReply = z.infer<typeof RunReply>;

export const run: Route<RunBody, unknown, RunReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/exec/run",
  name: "run",
  summary: "Run a command and wait for it",
  description:
    "Closing the request kills the command. With a timeout above 30 seconds, or none, the answer begins when the command " +
    "has started, and a space is sent every 15 seconds before the JSON, so that proxies keep the connection. A failure " +
    "after that is `{error, code}` with status 200.",
  access: "key",
  body: RunBody,
  status: 200,
  reply: RunReply,
};

export const RunHandle = z
  .object({ execId: z.string(), running: z.literal(true), startedAt: z.iso.datetime() })
  .meta({ id: "RunHandle" });

const RunAsyncBody = RunBody.extend({ keepAwake }).meta({ id: "RunAsync" });
type RunAsyncBody = z.infer<typeof RunAsyncBody>;

export const runAsync: Route<RunAsyncBody, unknown, RunReply | z.infer<typeof RunHandle>> = {
  method: "POST",
  path: "/api/sandboxes/:id/exec/run-async",
  name: "runAsync",
  summary: "Start a command, and return its result if it is quick",
  description:
    "The command outlives the request, and survives hibernation and a restart of the server. It is also an exec session " +
    "with the same id, which clients can attach to.",
  access: "key",
  body: RunAsyncBody,
  status: 200,
  reply: RunReply,
  otherReplies: { 202: { description: "The command still runs: poll for its result.", reply: RunHandle } },
};

export const ExecResultReply = z
  .object({
    running: z.boolean(),
    waking: z.boolean().optional().meta({ description: "The sandbox is still waking: poll again." }),
    exitCode: z.int().optional(),
    stdout: z.string().meta({ description: "Empty while the command runs." }),
    stderr: z.string(),
    truncated: z.boolean().optional(),
  })
  .meta({ id: "ExecResult" });
export type ExecResultReply = z.infer<typeof ExecResultReply>;

export const getExecResult: Route<unknown, unknown, ExecResultReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/exec/:execId/result",
  name: "getExecResult",
  summary: "Get the result of a command started with run-async",
  description:
    "Waits up to half a second for the command to end. The sandbox keeps a result for ten minutes. A hibernated sandbox " +
    "is woken.",
  access: "key",
  status: 200,
  reply: ExecResultReply,
};

/** The first message of a client on the stream, as text. */
export const StreamStart = Command.extend({
  timeout: timeout("none"),
  stdin: z.boolean().optional().meta({ description: "Default: false, so that the command reads end of file at once." }),
  stdinCredit: z
    .boolean()
    .optional()
    .meta({ description: "Report how much of stdin the command has taken, with 0x07. Default: false." }),
}).meta({ id: "StreamStart" });
export type StreamStart = z.infer<typeof StreamStart>;

/** The first byte of a binary message of the stream. */
export const streamFrame = {
  stdin: 0x00,
  stdout: 0x01,
  stderr: 0x02,
  exit: 0x03,
  stdinEnd: 0x05,
  signal: 0x06,
  stdinTaken: 0x07,
} as const;

/** The bytes of stdin that a client may send ahead of the server's report that they were taken. */
export const stdinWindow = 262_144;

export const streamExec: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/exec/stream",
  name: "streamExec",
  summary: "Run a command over a WebSocket, with live input and output",
  description:
    "The key is sent as X-API-Key or `?api_key=`. The first message is text, a StreamStart. The others are binary; the " +
    "first byte is their kind.\n\nFrom the server: 0x01 stdout; 0x02 stderr; 0x03 exit code as int32 big-endian, " +
    "followed by the close 1000. The exit code is the command's own, 128 + n when signal n ended it, and -1 when the " +
    "timeout did (stderr then ends in `Process timed out`). With `stdinCredit`, 0x07: the number of bytes of stdin that " +
    "were taken, as uint32 big-endian.\n\n" +
    "From the client: 0x00 stdin; 0x05 end of stdin; 0x06 and one byte: a signal to the process group. A message has at " +
    `most 16 MiB. The server always reads from a client that sends at most ${stdinWindow} bytes ahead of 0x07. It does ` +
    "not read from any other client until the command takes its input.\n\nWhen the command cannot start, or its end " +
    "cannot be known, the server sends a text message `{error, code}` and the close 1011, and no exit code. Closing the " +
    "connection kills the command's process group.",
  access: "key",
  status: 101,
};

/** Translates a request into the project's own terms. */
export function execFrom(body: RunBody): Exec {
  return execOf(body, body.timeout ?? defaultTimeoutSeconds);
}

export function streamedExecFrom(start: StreamStart): Exec {
  return { ...execOf(start, start.timeout ?? 0), stdin: start.stdin ?? false };
}

/** Translates a request into the project's own terms. A timeout of 0 means none. */
export function execOf(body: z.infer<typeof Command>, timeoutSeconds: number): Exec {
  const { cmd, args = [] } = body;
  return {
    argv: args.length === 0 ? ["/bin/sh", "-c", cmd] : [cmd, ...args],
    timeoutMs: Math.ceil(timeoutSeconds * 1000),
    ...(body.envs === undefined ? {} : { envs: body.envs }),
    ...(body.cwd === undefined || body.cwd === "" ? {} : { cwd: body.cwd }),
    ...(body.user === undefined || body.user === "" ? {} : { user: body.user }),
  };
}

/** The exit code that the published clients expect: -1 when a signal or the timeout ended the command. */
export function exitCodeOf(end: ExecEnd): number {
  return end.timedOut || end.signal !== 0 ? -1 : end.exitCode;
}

/** The end of stderr after a timeout. */
export const timedOutText = "\nProcess timed out";

/** The exit code on the stream: 128 + n for signal n, as in shells, and -1 for the timeout. */
export function streamedExitCode(end: ExecEnd): number {
  if (end.timedOut) return -1;
  return end.signal === 0 ? end.exitCode : 128 + end.signal;
}

/** The signal in a client's frame. @throws `invalid_argument` */
export function signalFrom(frame: Uint8Array): number {
  const signal = frame[1];
  if (frame.length !== 2 || signal === undefined || signal < 1 || signal > 64) {
    throw new SandboxError("invalid_argument", "a signal frame is 0x06 and one byte from 1 to 64");
  }
  return signal;
}
