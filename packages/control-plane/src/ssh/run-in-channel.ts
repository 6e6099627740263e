import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { AttachedSession, ExecEnd, RunRequest, TerminalSize } from "@opensandbox/wire/worker/sessions.ts";
import type { ServerChannel } from "ssh2";
import { newSessionId } from "#execs/run-command.ts";
import type { Use } from "#lifecycle/activity.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { type OpenChannel, receivedBy, send } from "./send.ts";
import type { SshConnection } from "./ssh-connection.ts";
import { signalName } from "./signals.ts";

/** What a client asks to run in a channel. */
export interface Command {
  readonly kind: "shell" | "exec" | "sftp";
  /** The command line of an `exec`. */
  readonly line?: string;
  readonly terminal?: TerminalSize;
  readonly envs: Readonly<Record<string, string>>;
}

/** A command in a channel, which may still be starting. */
export interface RunningChannel {
  /** Resolves when the command has ended, or its client has gone. */
  readonly done: Promise<void>;
  /** Sets the size of the terminal. */
  resize(size: TerminalSize): void;
  /** Sends a signal to the command's process group. */
  signal(number: number): void;
}

/** The program on the agent disk that serves SFTP. */
const sftpServer = "/run/opensandbox/bin/sftp-server";

/** Runs a line as OpenSSH does, with the user's shell; an image may lack it. */
const runLine = 'test -x "$SHELL" || SHELL=/bin/sh; exec "$SHELL" -c "$1"';
const runShell = 'test -x "$SHELL" || SHELL=/bin/sh; exec "$SHELL"';

/** The exit code of OpenSSH for failures of the connection. */
const failed = 255;

const sighup = 1;

/** Deadline for a signal to a command. */
const controlMs = 30_000;

/**
 * Starts a command in the sandbox and connects it to the channel. A client that leaves hangs up: the command receives
 * SIGHUP, and one that ignores it runs on, as with OpenSSH.
 */
export function runInChannel(opened: OpenChannel, command: Command, connection: SshConnection): RunningChannel {
  const { sandboxes, identity } = connection;
  const sessionId = newSessionId();
  const { sessions } = sandboxes.worker.guest(identity.sandboxId);
  let state: "starting" | "running" | "ended" = "starting";
  let size = command.terminal;

  const control = (what: string, action: (signal: AbortSignal) => Promise<void>): void => {
    if (state !== "running") return;
    action(AbortSignal.timeout(controlMs)).catch((error: unknown) => {
      // The command has ended meanwhile, or its machine has.
      if (isSandboxError(error, "not_found") || isSandboxError(error, "unavailable")) return;
      sandboxes.log("warn", `cannot ${what} a command of an SSH connection`, describeError(error));
    });
  };
  const resize = (): void => {
    const wanted = size;
    if (wanted !== undefined) control("resize", (signal) => sessions.resize(sessionId, wanted, signal));
  };

  const run = async (): Promise<void> => {
    const { closed } = opened;
    const signal = AbortSignal.any([closed, sandboxes.shutdown.ending]);
    const use = await useSandbox(sandboxes, identity.organizationId, identity.sandboxId, signal);
    // A command keeps its sandbox awake. A terminal and an open file transfer do not; their traffic does.
    using held = use;
    const attached = await sessions.run(requestOf(sessionId, command), signal);
    attached.result.catch(() => undefined);
    if (command.kind !== "exec" || command.terminal !== undefined) held[Symbol.dispose]();
    state = "running";
    if (size !== command.terminal) resize();
    takeInput(opened, attached, use, command);
    try {
      for await (const part of attached.output) {
        if (part === "scrollback end") continue;
        use.touch();
        await send(opened, part.pipe, part.bytes);
      }
      const { end } = await attached.result;
      state = "ended";
      exit(opened.channel, end);
    } catch (error) {
      if (closed.aborted && command.kind !== "sftp") {
        control("hang up", (stop) => sessions.signal(sessionId, sighup, stop));
      }
      throw error;
    } finally {
      state = "ended";
    }
  };

  return {
    done: run().catch((error: unknown) => reportFailure(opened, error)),
    resize: (wanted) => {
      size = wanted;
      resize();
    },
    signal: (number) => control("signal", (signal) => sessions.signal(sessionId, number, signal)),
  };
}

function requestOf(id: string, { kind, line = "", terminal, envs }: Command): RunRequest {
  const kept = { id, keepOutput: false, transient: true } as const;
  if (kind === "sftp") {
    return { ...kept, command: { argv: [sftpServer], stdin: true }, purpose: "private", whenDetached: "kill" };
  }
  const argv =
    kind === "exec"
      ? ["/bin/sh", "-c", runLine, "sh", line]
      : // With a terminal and without a program, the guest starts its shell.
        terminal === undefined
        ? ["/bin/sh", "-c", runShell]
        : [];
  return {
    ...kept,
    command: { argv, envs, stdin: true },
    purpose: terminal === undefined ? "exec" : "terminal",
    whenDetached: "keep",
    ...(terminal === undefined ? {} : { terminal }),
  };
}

/** Passes the client's bytes to the command, which reads them at its own pace. */
function takeInput({ channel, closed }: OpenChannel, attached: AttachedSession, use: Use, command: Command): void {
  const take = async (): Promise<void> => {
    for await (const bytes of receivedBy(channel)) {
      use.touch();
      await attached.write(bytes);
    }
    // A terminal has no end of input apart from the key that means it.
    if (!closed.aborted && command.terminal === undefined) await attached.closeStdin();
  };
  // A command that has ended, or a client that has gone, ends the input; the output tells the rest.
  take().catch(() => undefined);
}

function exit(channel: ServerChannel, { exitCode, signal }: ExecEnd): void {
  const name = signal === 0 ? undefined : signalName(signal);
  if (name !== undefined) channel.exit(name, false, "");
  else channel.exit(signal === 0 ? exitCode : 128 + signal);
  channel.end();
}

/** Tells the client on standard error why there is no command. */
async function reportFailure(opened: OpenChannel, error: unknown): Promise<void> {
  const { channel, closed } = opened;
  if (closed.aborted) return;
  const message = isSandboxError(error) ? error.message : "the connection to the sandbox broke";
  await send(opened, "stderr", Buffer.from(`opensandbox: ${message}\r\n`));
  channel.exit(failed);
  channel.end();
  if (!isSandboxError(error)) throw error;
}
