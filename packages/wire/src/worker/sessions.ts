/** Exec sessions of one guest. Every call rejects with `not_found` when the sandbox does not run on this worker. */
export interface GuestSessions {
  /** Starts a command without attaching to it. `already_exists` for an id that is taken. */
  create(request: NewExecSession, signal: AbortSignal): Promise<ExecSession>;
  /** Starts a command and attaches to it from the start of its output, in one round trip. */
  run(request: RunRequest, signal: AbortSignal): Promise<AttachedSession>;
  /** Attaches one more listener. `not_found` for an unknown session. */
  attach(sessionId: string, options: AttachOptions, signal: AbortSignal): Promise<AttachedSession>;
  /** Sessions that run or have ended recently, without private ones. */
  list(signal: AbortSignal): Promise<readonly ExecSession[]>;
  /** Resolves when the session has ended or `milliseconds` have passed, whichever comes first. */
  wait(sessionId: string, milliseconds: number, signal: AbortSignal): Promise<ExecSession>;
  /** Sends a signal, 1 to 64, to the process group of the command; a command that has ended ignores it. */
  signal(sessionId: string, number: number, signal: AbortSignal): Promise<void>;
  /** Sets the size of the session's terminal. `invalid_argument` for a session without one. */
  resize(sessionId: string, size: TerminalSize, signal: AbortSignal): Promise<void>;
  /** Kills the command with everything it has started and forgets the session. */
  remove(sessionId: string, signal: AbortSignal): Promise<void>;
}

/** A command, as the guest starts it. */
export interface Exec {
  readonly argv: readonly [string, ...string[]];
  /** Added to the environment of the sandbox. */
  readonly envs?: Readonly<Record<string, string>>;
  /** Default: the home directory of the user. */
  readonly cwd?: string;
  /** Default: `sandbox`. */
  readonly user?: string;
  /** After this time the command and everything it has started are killed. 0 or absent: no timeout. */
  readonly timeoutMs?: number;
  /** False or absent: the command reads end of file at once. */
  readonly stdin?: boolean;
}

/** How a command ended, always as the guest's kernel reported it. */
export interface ExecEnd {
  /** 0 when a signal ended the command. */
  readonly exitCode: number;
  /** 0 when the command exited by itself. */
  readonly signal: number;
  readonly timedOut: boolean;
}

/** A piece of what a command wrote. */
export interface ExecOutput {
  readonly pipe: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

/**
 * What happens to a running command when its last listener has detached.
 * - `keep`: the command runs on.
 * - `killAfterMs`: the command is killed unless a listener attaches within this time.
 */
export type WhenDetached = "keep" | { readonly killAfterMs: number };

export interface NewExecSession {
  /** 1 to 64 letters, digits, `-` and `_`. */
  readonly id: string;
  /** Without a program and with a terminal, the guest starts its shell. */
  readonly command: Omit<Exec, "argv"> & { readonly argv: readonly string[] };
  readonly purpose: SessionPurpose;
  /** Keeps all output for as long as the session exists, instead of the scrollback alone. */
  readonly keepOutput: boolean;
  readonly whenDetached: WhenDetached;
  /** Makes standard input, output and error one terminal of this size. */
  readonly terminal?: TerminalSize;
}

export interface RunRequest extends Omit<NewExecSession, "whenDetached"> {
  /**
   * `kill` also kills the command and everything it has started when this caller detaches: when it aborts its signal or
   * stops reading. A line to the guest that breaks kills nothing, since the guest cannot tell why it broke.
   */
  readonly whenDetached: WhenDetached | "kill";
  /** Forgets the session once this caller has received its end. */
  readonly transient: boolean;
  /**
   * Whether the process id is returned even for a command that ends at once, which costs one more message. Default:
   * false.
   */
  readonly announce?: boolean;
}

/** What the control plane uses a session for. A `private` session is known to its caller alone and is never listed. */
export type SessionPurpose = "exec" | "run" | "terminal" | "agent" | "private";

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A command with an id. The guest forgets it ten minutes after its end. */
export interface ExecSession {
  readonly id: string;
  /** Shortened when it is very long. */
  readonly argv: readonly string[];
  readonly purpose: SessionPurpose;
  readonly terminal: boolean;
  readonly startedMs: number;
  /** Number of listeners attached now. */
  readonly attached: number;
  /** Absent while the command runs, and until all of its output can be read. */
  readonly end?: ExecEnd;
  readonly endedMs?: number;
  /** Bytes written so far. */
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
  /** Some output was dropped: the guest's disk is full, or the output exceeds what a session keeps. */
  readonly truncated: boolean;
  /** The process id in the guest. Absent for guest agents of earlier versions. */
  readonly pid?: number;
}

/** How a session ended, as its listeners receive it. */
export type EndedSession = Pick<ExecSession, "truncated"> & { readonly end: ExecEnd };

export interface AttachOptions {
  /** Starts from the oldest output that is kept; false: from the start of the scrollback. */
  readonly fromStart: boolean;
  /** Absent: both. */
  readonly pipe?: ExecOutput["pipe"];
}

/** One listener of a session: a stream in each direction. Aborting the signal or leaving `output` early detaches. */
export interface AttachedSession {
  readonly startedMs: number;
  /** The process id in the guest. Absent for guest agents of earlier versions, and for quick commands: see `announce`. */
  readonly pid?: number;
  /**
   * Ends when the command has ended. A listener that does not read makes the command wait, unless others listen. The
   * output of a new session may come without a `scrollback end`.
   */
  readonly output: AsyncIterable<ExecOutput | "scrollback end">;
  /** Settles after `output` has ended; rejects when the line to the guest breaks before that. */
  readonly result: Promise<EndedSession>;
  /** Writes to standard input; settles when the command has taken the bytes or reads no more. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends standard input. */
  closeStdin(): Promise<void>;
}
