import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type {
  AttachedSession,
  AttachOptions,
  ExecEnd,
  ExecOutput,
  ExecSession,
  NewExecSession,
  RunRequest,
  TerminalSize,
} from "@opensandbox/wire/worker/sessions.ts";

/** The sessions of one test machine: processes of this host with their output in memory. */
export class TestSessions {
  readonly #sessions = new Map<string, TestSession>();
  readonly #running: Set<ChildProcessWithoutNullStreams>;
  readonly #now: () => number;
  /** Stands in for the agent wrapper: it echoes its input. */
  agentProgram: readonly string[] = ["cat"];

  /** Adds processes to `running` for as long as they run; `now` is the clock of the guest. */
  constructor(running: Set<ChildProcessWithoutNullStreams>, now: () => number) {
    this.#running = running;
    this.#now = now;
  }

  async create(request: NewExecSession | RunRequest): Promise<TestSession> {
    const { argv, envs, cwd = "/tmp", stdin = false } = request.command;
    const [program = "/bin/sh", ...args] = request.purpose === "agent" ? this.agentProgram : argv;
    // A shell whose stdin is a socket reads the start-up files of HOME: those of this host must not count.
    const env = { PATH: process.env["PATH"] ?? "", HOME: "/nonexistent", ...envs };
    const child = spawn(program, args, { env, cwd, detached: true });
    await once(child, "spawn").catch((error: unknown) => {
      throw new SandboxError("not_found", `${program} not found`, { resource: "file", id: program }, { cause: error });
    });
    if (!stdin && request.terminal === undefined) child.stdin.end();
    const session = new TestSession(request, child, this.#now);
    this.#sessions.set(request.id, session);
    this.#running.add(child);
    void session.ended.then(() => this.#running.delete(child));
    return session;
  }

  get(id: string): TestSession {
    const session = this.#sessions.get(id);
    if (session === undefined)
      throw new SandboxError("not_found", "session not found", { resource: "exec session", id });
    return session;
  }

  list(): ExecSession[] {
    return [...this.#sessions.values()].map((session) => session.info()).filter(({ purpose }) => purpose !== "private");
  }

  remove(id: string): void {
    this.get(id).kill(constants.signals.SIGKILL);
    this.#sessions.delete(id);
  }

  /** Removes the session of a command that ends with its caller. */
  removeOnAbort(id: string, signal: AbortSignal): void {
    const remove = (): void => {
      if (this.#sessions.has(id)) this.remove(id);
    };
    signal.addEventListener("abort", remove);
    if (signal.aborted) remove();
  }

  removeAll(): void {
    for (const id of this.#sessions.keys()) this.remove(id);
  }

  /** Breaks the line to the guest: attachments reject, and the commands run on. */
  loseLine(): void {
    for (const session of this.#sessions.values()) session.loseLine();
  }
}

export class TestSession {
  readonly ended: Promise<void>;
  size: TerminalSize | undefined;
  readonly #request: NewExecSession | RunRequest;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #parts: ExecOutput[] = [];
  readonly #startedMs: number;
  #end: ExecEnd | undefined;
  #endedMs = 0;
  #attached = 0;
  #line = new AbortController();
  #changed = Promise.withResolvers<void>();

  constructor(request: NewExecSession | RunRequest, child: ChildProcessWithoutNullStreams, now: () => number) {
    this.#startedMs = now();
    this.#request = request;
    this.#child = child;
    this.size = request.terminal;
    for (const pipe of ["stdout", "stderr"] as const) {
      child[pipe].on("data", (bytes: Buffer) => {
        this.#parts.push({ pipe, bytes });
        this.#change();
      });
    }
    child.stdin.on("error", () => {});
    const timeoutMs = request.command.timeoutMs ?? 0;
    let timedOut = false;
    const onTimeout = (): void => {
      timedOut = true;
      this.kill(constants.signals.SIGKILL);
    };
    const timer = timeoutMs === 0 ? undefined : setTimeout(onTimeout, timeoutMs);
    this.ended = once(child, "close").then(([code, signal]: (number | NodeJS.Signals | null)[]) => {
      clearTimeout(timer);
      this.#end = {
        exitCode: Number(code ?? 0),
        signal: signal === null ? 0 : constants.signals[signal as NodeJS.Signals],
        timedOut,
      };
      this.#endedMs = now();
      this.#change();
    });
  }

  info(): ExecSession {
    const bytesOf = (pipe: string): number =>
      this.#parts.reduce((sum, part) => sum + (part.pipe === pipe ? part.bytes.length : 0), 0);
    return {
      id: this.#request.id,
      argv: this.#request.command.argv,
      purpose: this.#request.purpose,
      terminal: this.#request.terminal !== undefined,
      startedMs: this.#startedMs,
      attached: this.#attached,
      ...(this.#end === undefined ? {} : { end: this.#end, endedMs: this.#endedMs }),
      stdoutBytes: bytesOf("stdout"),
      stderrBytes: bytesOf("stderr"),
      truncated: false,
      ...(this.#child.pid === undefined ? {} : { pid: this.#child.pid }),
    };
  }

  attach({ pipe }: Pick<AttachOptions, "pipe">, signal: AbortSignal): AttachedSession {
    const end = Promise.withResolvers<ExecSession & { readonly end: ExecEnd }>();
    end.promise.catch(() => {});
    return {
      startedMs: this.#startedMs,
      ...(this.#child.pid === undefined ? {} : { pid: this.#child.pid }),
      output: this.#output({ pipe, end, signal: AbortSignal.any([signal, this.#line.signal]) }),
      result: end.promise,
      write: async (bytes) => {
        if (!this.#child.stdin.write(bytes)) await once(this.#child.stdin, "drain");
      },
      closeStdin: async () => {
        this.#child.stdin.end();
        await Promise.resolve();
      },
    };
  }

  kill(signal: number): void {
    if (this.#end === undefined && this.#child.pid !== undefined) process.kill(-this.#child.pid, signal);
  }

  loseLine(): void {
    this.#line.abort(new SandboxError("unavailable", "the line to the guest has ended"));
    this.#line = new AbortController();
  }

  async *#output({
    pipe,
    end,
    signal,
  }: {
    pipe: ExecOutput["pipe"] | undefined;
    end: PromiseWithResolvers<ExecSession & { readonly end: ExecEnd }>;
    signal: AbortSignal;
  }): AsyncGenerator<ExecOutput | "scrollback end"> {
    const gone = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason as Error));
    });
    gone.catch(() => {});
    this.#attached += 1;
    try {
      const replay = this.#parts.length;
      let index = 0;
      const isWanted = (part: ExecOutput): boolean => pipe === undefined || part.pipe === pipe;
      for (; index < replay; index += 1) yield* this.#parts.slice(index, index + 1).filter(isWanted);
      yield "scrollback end";
      for (;;) {
        signal.throwIfAborted();
        for (; index < this.#parts.length; index += 1) yield* this.#parts.slice(index, index + 1).filter(isWanted);
        if (this.#end !== undefined) break;
        await Promise.race([this.#changed.promise, gone]);
      }
      end.resolve({ ...this.info(), end: this.#end });
    } catch (error) {
      end.reject(error);
      throw error;
    } finally {
      this.#attached -= 1;
    }
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
