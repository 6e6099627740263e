import { create } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  EmptySchema,
  ExecResultSchema,
  type SessionCreateRequest,
  type SessionEvent,
  SessionEventSchema,
  type SessionInfo,
  SessionInfoSchema,
  type TerminalSize,
} from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes } from "@opensandbox/wire/guest/methods.ts";
import { type RunningCommand, signalGroup } from "./command.ts";
import { Deadline, deadlineOf } from "./deadline.ts";
import { InputPipe, inputTo } from "./input-pipe.ts";
import type { OutputLog, OutputReader } from "./output-log.ts";
import { OutputPipe } from "./output-pipe.ts";
import type { QuickOutcome } from "./quick-outcome.ts";
import type { ExitStatus } from "./reaper.ts";

const SIGKILL = 9;

/** Longer command lines are shortened in listings. */
const maxArgvLength = 4096;

/** The parts that a session is made of. */
export interface SessionStart {
  readonly request: SessionCreateRequest;
  readonly command: RunningCommand;
  /** Present when the command ended before its output had to be streamed. */
  readonly outcome?: QuickOutcome;
  readonly log: OutputLog;
  /** Start of the command, in milliseconds since 1970. */
  readonly startedMs: number;
}

/**
 * A command with an id. It runs to its end with or without listeners. Several may be attached at once, and each receives
 * every byte from the place where it began to read.
 */
export class ExecSession {
  readonly id: string;
  /** Settles when the command has ended and all of its output can be read. Never rejects. */
  readonly ended: Promise<void>;
  /** The session's creator has received its end: the session is no longer listed and is forgotten soon. */
  delivered = false;
  readonly #request: SessionCreateRequest;
  readonly #command: RunningCommand;
  readonly #log: OutputLog;
  readonly #outputs: readonly OutputPipe[];
  readonly #input: InputPipe | undefined;
  readonly #startedMs: number;
  readonly #written = { stdout: 0, stderr: 0 };
  /** Receives the output instead of the log. */
  #sink: Stream | undefined;
  #attached = 0;
  #forgotten = false;
  #detachedDeadline: Disposable | undefined;
  #result: (ExitStatus & { readonly timedOut: boolean }) | undefined;
  #endedMs = 0;

  constructor({ request, command, outcome, log, startedMs }: SessionStart) {
    this.id = request.id;
    this.#request = request;
    this.#command = command;
    this.#log = log;
    this.#startedMs = startedMs;
    const { stdio } = command;
    if (outcome !== undefined) {
      this.#outputs = [];
      // A pipe holds less than a log does, so nothing has to wait.
      void this.#take("stdout", outcome.stdout);
      void this.#take("stderr", outcome.stderr);
      this.#end({ ...outcome.status, timedOut: false }, outcome.endedMs);
      this.ended = Promise.resolve();
      return;
    }
    if ("terminal" in stdio) {
      const output = new OutputPipe(stdio.terminal, { terminal: true }, (bytes) => this.#take("stdout", bytes));
      this.#outputs = [output];
      this.#input = new InputPipe(output.socket, { terminal: true });
    } else {
      this.#outputs = [
        new OutputPipe(stdio.stdout, { terminal: false }, (bytes) => this.#take("stdout", bytes)),
        new OutputPipe(stdio.stderr, { terminal: false }, (bytes) => this.#take("stderr", bytes)),
      ];
      this.#input = stdio.stdin === undefined ? undefined : inputTo(stdio.stdin);
    }
    this.ended = this.#attend();
  }

  get isRunning(): boolean {
    return this.#result === undefined;
  }

  /** Bytes of output that it holds in the agent's memory. */
  get memoryBytes(): number {
    return this.#log.memoryBytes;
  }

  info(): SessionInfo {
    const { purpose, terminal } = this.#request;
    const result = this.#result === undefined ? {} : { result: create(ExecResultSchema, this.#result) };
    return create(SessionInfoSchema, {
      id: this.id,
      argv: shortened(this.#command.argv),
      purpose,
      terminal: terminal !== undefined,
      startedMs: BigInt(this.#startedMs),
      attached: this.#attached,
      ...result,
      endedMs: BigInt(this.#endedMs),
      stdoutBytes: BigInt(this.#written.stdout),
      stderrBytes: BigInt(this.#written.stderr),
      truncated: this.#log.truncated,
      pid: this.#command.pid,
    });
  }

  /** How the command ended, without the parts that its listener knows. */
  briefInfo(): SessionInfo {
    return create(SessionInfoSchema, {
      id: this.id,
      ...(this.#result === undefined ? {} : { result: create(ExecResultSchema, this.#result) }),
      startedMs: BigInt(this.#startedMs),
      endedMs: BigInt(this.#endedMs),
      stdoutBytes: BigInt(this.#written.stdout),
      stderrBytes: BigInt(this.#written.stderr),
      truncated: this.#log.truncated,
    });
  }

  /** Passes output to the stream and input from it, until the command or the stream ends. */
  async attach(stream: Stream, place: { fromStart: boolean; pipes: readonly number[] }): Promise<SessionInfo> {
    using reader = this.#log.read(place);
    this.#attached += 1;
    this.#detachedDeadline?.[Symbol.dispose]();
    try {
      await stream.sendMessage(SessionEventSchema, event({ case: "attached", value: this.info() }));
      // Rejects when the stream ends for any reason.
      this.#takeInput(stream).catch((error: SandboxError) => reader.fail(error));
      await send(reader, stream);
      return this.briefInfo();
    } finally {
      this.#detach();
    }
  }

  /**
   * Attaches the only listener of a session: its output goes straight to the stream, since a log would double the cost.
   * Must be called in the turn in which the session was made.
   */
  async attachAlone(stream: Stream): Promise<SessionInfo> {
    this.#attached += 1;
    this.#sink = stream;
    try {
      await stream.sendMessage(SessionEventSchema, event({ case: "attached", value: this.info() }));
      const input = this.#takeInput(stream);
      // Reading the input ends with the stream, perhaps after the command.
      input.catch(() => undefined);
      await Promise.race([this.ended, input]);
      return this.briefInfo();
    } finally {
      this.#sink = undefined;
      this.#detach();
    }
  }

  /** Signals the process group. @throws invalid_argument: no such signal */
  signal(number: number): void {
    if (this.isRunning) signalGroup(this.#command.pid, number);
  }

  /** Sets the size of the terminal. @throws invalid_argument: the session has none */
  resize(size: TerminalSize): void {
    if (this.#request.terminal === undefined) {
      throw new SandboxError("invalid_argument", `session ${this.id} has no terminal`);
    }
    this.#outputs[0]?.resize(size);
  }

  /** Kills the command and everything it has started. */
  kill(): void {
    if (this.isRunning) this.#command.kill();
  }

  /** Moves the output from memory to the disk. */
  async leaveMemory(): Promise<void> {
    await this.#log.leaveMemory();
  }

  /** Frees the output once the command has ended and its last listener has left. */
  async dispose(): Promise<void> {
    await this.ended;
    this.#forgotten = true;
    if (this.#attached === 0) this.#log.dispose();
  }

  #take(name: "stdout" | "stderr", bytes: Uint8Array): Promise<void> | undefined {
    this.#written[name] += bytes.length;
    if (this.#sink !== undefined) return this.#sink.pushData(execPipes[name], bytes);
    return this.#log.append(execPipes[name], bytes);
  }

  async #attend(): Promise<void> {
    let late = false;
    using _ = deadlineOf(this.#request.command?.timeoutMs ?? 0, () => {
      late = true;
      this.#command.kill();
    });
    const status = await this.#command.ended;
    this.#log.stopWaiting();
    for (const output of this.#outputs) await output.finish();
    this.#input?.close();
    // A command that exited just before the deadline did not time out.
    this.#end({ ...status, timedOut: late && status.signal === SIGKILL }, Date.now());
  }

  #end(result: ExitStatus & { readonly timedOut: boolean }, endedMs: number): void {
    this.#result = result;
    this.#endedMs = endedMs;
    this.#detachedDeadline?.[Symbol.dispose]();
    this.#log.close();
    // Deferred until the listeners have received the end.
    setImmediate(() => this.#command.release());
  }

  async #takeInput(stream: Stream): Promise<never> {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "message") {
        throw new SandboxError("invalid_argument", "the stream of a session takes only data");
      }
      if (incoming.kind === "data") await this.#input?.write(incoming.payload);
      else this.#input?.end();
    }
  }

  #detach(): void {
    this.#attached -= 1;
    if (this.#attached > 0) return;
    if (this.#forgotten) this.#log.dispose();
    const { detachedMs } = this.#request;
    if (this.isRunning && detachedMs > 0) this.#detachedDeadline = new Deadline(detachedMs, () => this.kill());
  }
}

/** The end of a command that ended before its output had to be streamed, as its session reports it. */
export function endedInfo({
  request,
  startedMs,
  outcome,
}: Pick<SessionStart, "request" | "startedMs"> & { readonly outcome: QuickOutcome }): SessionInfo {
  return create(SessionInfoSchema, {
    id: request.id,
    result: create(ExecResultSchema, outcome.status),
    startedMs: BigInt(startedMs),
    endedMs: BigInt(outcome.endedMs),
    stdoutBytes: BigInt(outcome.stdout.length),
    stderrBytes: BigInt(outcome.stderr.length),
  });
}

async function send(reader: OutputReader, stream: Stream): Promise<void> {
  for (let next = await reader.take(); next !== undefined; next = await reader.take()) {
    if (next === "edge") await stream.sendMessage(SessionEventSchema, event({ case: "scrollbackEnd", value: empty }));
    else await stream.pushData(next.pipe, next.bytes);
  }
}

const empty = create(EmptySchema);

function event(value: NonNullable<SessionEvent["event"]>): SessionEvent {
  return create(SessionEventSchema, { event: value });
}

function shortened(argv: readonly string[]): string[] {
  let left = maxArgvLength;
  const shown: string[] = [];
  for (const text of argv) {
    if (left <= 0) break;
    shown.push(text.length > left ? `${text.slice(0, left)}…` : text);
    left -= text.length;
  }
  return shown;
}
