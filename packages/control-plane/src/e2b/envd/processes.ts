import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/e2b/envd.ts";
import type { AttachedSession, Exec } from "@opensandbox/wire/worker/sessions.ts";
import { newSessionId } from "#execs/run-command.ts";
import type { ConnectStream } from "./connect-stream.ts";
import { type EnvdCall, hasEnded } from "./envd-call.ts";
import { type LiveProcess, processNotFound, sessionIdOf } from "./live-processes.ts";
import { pathFrom } from "./paths.ts";

const SIGKILL = 9;

/** How long the answer to a SIGKILL waits for the end of the process, so that the next call does not find it. */
const killedWithinMs = 1000;

const defaultSize = { columns: 80, rows: 24 };

/** The longest timeout that the guest accepts, in milliseconds. */
const maxTimeoutMs = 2 ** 32 - 1;

/** Starts a process, which runs on when its client leaves, and streams its events. */
export async function startProcess(call: EnvdCall, body: wire.StartRequest, stream: ConnectStream): Promise<void> {
  const { context, id, signal } = call;
  const sessionId = newSessionId();
  const size = body.pty?.size;
  const terminal =
    body.pty === undefined ? undefined : size === undefined ? defaultSize : { columns: size.cols, rows: size.rows };
  const attached = await run(call, { sessionId, command: commandOf(call, body), terminal });
  const { pid } = attached;
  if (pid === undefined) {
    await call.guest.sessions.remove(sessionId, signal);
    throw new SandboxError(
      "not_supported",
      "the guest agent of this sandbox is of an earlier version, which reports no process ids: reboot the sandbox",
    );
  }
  const { envs = {}, cwd } = body.process;
  const started: LiveProcess = { pid, sessionId, tag: body.tag, envs, cwd, attached };
  context.processes.add(id, started);
  let ended = false;
  try {
    await sendEvents(call, { attached, pid, terminal: terminal !== undefined, replayed: false }, stream);
    ended = true;
  } catch (error) {
    // The client has left; the process runs on.
    if (signal.aborted) return;
    throw error;
  } finally {
    context.processes.detach(started, { ended });
  }
}

async function run(
  { guest, signal }: EnvdCall,
  {
    sessionId: id,
    command,
    terminal,
  }: {
    readonly sessionId: string;
    readonly command: Exec;
    readonly terminal: { readonly columns: number; readonly rows: number } | undefined;
  },
): Promise<AttachedSession> {
  try {
    return await guest.sessions.run(
      {
        id,
        command,
        purpose: "exec",
        keepOutput: false,
        whenDetached: "keep",
        transient: false,
        announce: true,
        ...(terminal === undefined ? {} : { terminal }),
      },
      signal,
    );
  } catch (error) {
    throw (await missingDirectory(guest, command, signal, error)) ?? error;
  }
}

/** If a command did not start because its directory does not exist, the error in E2B's words. */
async function missingDirectory(
  { files }: EnvdCall["guest"],
  { cwd }: Exec,
  signal: AbortSignal,
  cause: unknown,
): Promise<SandboxError | undefined> {
  if (cwd === undefined || !isSandboxError(cause, "invalid_argument")) return undefined;
  try {
    await files.stat(cwd, {}, signal);
    return undefined;
  } catch (error) {
    if (!isSandboxError(error, "not_found")) throw error;
    return new SandboxError("invalid_argument", `cwd '${cwd}' does not exist`, { cause });
  }
}

function commandOf({ account, request }: EnvdCall, { process: wanted, stdin }: wire.StartRequest): Exec {
  const deadline = Number(request.headers["connect-timeout-ms"] ?? 0);
  return {
    argv: [wanted.cmd, ...(wanted.args ?? [])],
    user: account.name,
    ...(wanted.envs === undefined ? {} : { envs: wanted.envs }),
    ...(wanted.cwd === undefined || wanted.cwd === "" ? {} : { cwd: pathFrom(account, wanted.cwd) }),
    ...(Number.isFinite(deadline) && deadline > 0 ? { timeoutMs: Math.min(Math.ceil(deadline), maxTimeoutMs) } : {}),
    // Clients of the first versions do not send the field, and write to every process.
    stdin: stdin ?? true,
  };
}

/** Streams the further events of a process. For a process that has ended, that is only its end. */
export async function connectProcess(
  call: EnvdCall,
  { process: selector }: { readonly process: wire.Selector },
  stream: ConnectStream,
): Promise<void> {
  const { context, id, guest, signal } = call;
  const { sessions } = guest;
  const sessionId = await sessionIdOf(context.processes, { id, sessions, selector }, signal);
  const session = await orProcessNotFound(selector, sessions.wait(sessionId, 0, signal));
  const attached = await orProcessNotFound(selector, sessions.attach(sessionId, { fromStart: false }, signal));
  const pid = session.pid ?? selector.pid ?? 0;
  await sendEvents(call, { attached, pid, terminal: session.terminal, replayed: true }, stream);
}

interface Events {
  readonly attached: AttachedSession;
  readonly pid: number;
  readonly terminal: boolean;
  /** The output begins with the scrollback, which this interface does not repeat. */
  readonly replayed: boolean;
}

async function sendEvents(
  call: EnvdCall,
  { attached, pid, terminal, replayed }: Events,
  stream: ConnectStream,
): Promise<void> {
  const { signal, use } = call;
  await stream.send(wire.startEventOf(pid), signal);
  let isNew = !replayed;
  for await (const part of attached.output) {
    if (part === "scrollback end") isNew = true;
    else if (isNew) {
      use.touch();
      await stream.send(wire.dataEventOf(part, terminal, base64Of), signal);
    }
  }
  const { end } = await attached.result;
  // The end of a sandbox kills its processes. Clients must learn of the sandbox's end, so the connection is cut.
  if (end.signal !== 0 && (await hasEnded(call))) {
    throw new SandboxError("unavailable", "the sandbox ended while the process ran");
  }
  if (end.timedOut) return stream.end({ code: "deadline_exceeded", message: "the process exceeded its deadline" });
  await stream.send(wire.endEventOf(end), signal);
  stream.end();
}

function base64Of(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Lists the running processes, including those that other interfaces started. */
export async function listProcesses({ context, id, guest, signal }: EnvdCall): Promise<object> {
  const sessions = await guest.sessions.list(signal);
  const processes = sessions.flatMap(({ id: sessionId, pid, argv, end }): wire.ProcessInfo[] => {
    if (end !== undefined || pid === undefined) return [];
    const known = context.processes.bySession(id, sessionId);
    const [cmd = "", ...args] = argv;
    const { envs = {}, cwd, tag } = known ?? {};
    const config = { cmd, args, envs, ...(cwd === undefined ? {} : { cwd }) };
    return [{ config, pid, ...(tag === undefined ? {} : { tag }) }];
  });
  return { processes };
}

export async function sendInput(call: EnvdCall, { process: selector, input }: wire.SendInputRequest): Promise<object> {
  const bytes = Buffer.from(input.stdin ?? input.pty ?? "", "base64");
  await withInput(call, selector, (attached) => attached.write(bytes));
  return {};
}

export async function closeStdin(
  call: EnvdCall,
  { process: selector }: { readonly process: wire.Selector },
): Promise<object> {
  const { context, id, guest, signal } = call;
  const sessionId = await sessionIdOf(context.processes, { id, sessions: guest.sessions, selector }, signal);
  const { terminal } = await orProcessNotFound(selector, guest.sessions.wait(sessionId, 0, signal));
  if (terminal) {
    const details = { resource: "exec", state: "terminal", allowed: [] } as const;
    throw new SandboxError("wrong_state", "the standard input of a terminal cannot be closed", details);
  }
  await withInput(call, selector, (attached) => attached.closeStdin());
  return {};
}

/** Sends input over the connection of the client that listens, or attaches to the process for a moment. */
async function withInput(
  { context, id, guest, signal }: EnvdCall,
  selector: wire.Selector,
  work: (attached: AttachedSession) => Promise<void>,
): Promise<void> {
  const { attached } = context.processes.find(id, selector) ?? {};
  if (attached !== undefined) return await work(attached);
  const sessionId = await sessionIdOf(context.processes, { id, sessions: guest.sessions, selector }, signal);
  const detach = new AbortController();
  const until = AbortSignal.any([signal, detach.signal]);
  const own = await orProcessNotFound(selector, guest.sessions.attach(sessionId, { fromStart: false }, until));
  // The end of the process concerns its listeners, not this call.
  own.result.catch(() => undefined);
  try {
    await work(own);
  } finally {
    detach.abort(new SandboxError("canceled", "the input has been written"));
  }
}

export async function sendSignal(
  { context, id, guest: { sessions }, signal }: EnvdCall,
  {
    process: selector,
    signal: name,
  }: { readonly process: wire.Selector; readonly signal?: string | number | undefined },
): Promise<object> {
  const number = wire.signalFrom(name);
  const sessionId = await sessionIdOf(context.processes, { id, sessions, selector }, signal);
  const { end } = await orProcessNotFound(selector, sessions.wait(sessionId, 0, signal));
  if (end !== undefined) throw processNotFound(selector);
  await orProcessNotFound(selector, sessions.signal(sessionId, number, signal));
  if (number === SIGKILL) await orProcessNotFound(selector, sessions.wait(sessionId, killedWithinMs, signal));
  return {};
}

export async function resizeTerminal(
  { context, id, guest: { sessions }, signal }: EnvdCall,
  {
    process: selector,
    pty,
  }: {
    readonly process: wire.Selector;
    readonly pty?: { size?: { cols: number; rows: number } | undefined } | undefined;
  },
): Promise<object> {
  const sessionId = await sessionIdOf(context.processes, { id, sessions, selector }, signal);
  const size = pty?.size;
  if (size !== undefined) {
    await orProcessNotFound(selector, sessions.resize(sessionId, { columns: size.cols, rows: size.rows }, signal));
  }
  return {};
}

/** Reports a session that the guest has forgotten as a process that is not found. */
async function orProcessNotFound<T>(selector: wire.Selector, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw isSandboxError(error, "not_found") && error.details.resource === "exec session"
      ? processNotFound(selector)
      : error;
  }
}
