import type { EgressRules, NetworkPolicy } from "../egress.ts";
import type { SandboxId, SnapshotId } from "../ids.ts";

/**
 * What the control plane asks of a worker. In one process it is the worker itself; over a network a client with the
 * same methods. Every error is a `SandboxError`; a sandbox that does not run here is `not_found`.
 */
export interface Worker {
  readonly id: string;
  describe(): WorkerDescription;

  /**
   * Disks, network, machine, guest: resolves when a command would work. After a failure nothing is left of it.
   * `onProgress` hears of what takes longer than a moment, such as building an image.
   */
  startSandbox(
    request: StartSandbox,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<StartedSandbox>;
  /** Ends the machine and removes all that belongs to it. A sandbox that is not here is none to stop: it returns. */
  stopSandbox(id: SandboxId): Promise<void>;
  /**
   * Settles when the machine of the sandbox ends by itself; never rejects. Its disks stay until `stopSandbox`, and
   * `powerCycleSandbox` boots them again.
   */
  ended(id: SandboxId): Promise<SandboxEnd>;
  /** Sandboxes that a worker which is gone has left running and that run here now. Told once, at the start. */
  readonly adopted: readonly AdoptedSandbox[];
  /** The end of what the machine of a sandbox has written to its console. */
  readConsole(id: SandboxId): Promise<string>;
  /** Machines that wait to become a sandbox. */
  readyMachines(): ReadyMachinesState;
  /** Ends the worker and leaves its machines running, to be adopted by the next one. */
  release(): Promise<void>;

  /**
   * Captures the machine and goes on: its pause is `pausedMs`. The snapshot exists when this resolves; after a failure
   * nothing of it is left and the machine runs. `wrong_state` when the guest does not confirm that it holds still.
   */
  captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot>;
  /**
   * Captures the machine and ends it. The snapshot exists before the machine goes; after a failure nothing of the
   * snapshot is left and the machine runs.
   */
  hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot>;
  /** Undefined: there is no such snapshot, or only an unfinished one, which does not count. */
  findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined>;
  /** What other snapshots and running sandboxes need of it stays. A snapshot that is not there is removed already. */
  removeSnapshot(snapshotId: SnapshotId): Promise<void>;
  /** Starts the guest's kernel again: the disks, the network and the id stay. Resolves when a command would work. */
  rebootSandbox(id: SandboxId, signal: AbortSignal): Promise<void>;
  /** The same with a new machine on the same disks, whatever state the old one is in. */
  powerCycleSandbox(id: SandboxId, signal: AbortSignal): Promise<void>;
  /**
   * Gives the guest more memory while it runs, or takes some back. `invalid_argument` for a size that its machine
   * cannot have, `no_capacity` when the host has no room, `not_supported` where machines keep their size.
   */
  scaleSandbox(id: SandboxId, memoryMib: number, signal: AbortSignal): Promise<Scaled>;
  /** Who answers what guests ask for themselves. Told once, at the start. */
  answerGuests(answers: GuestAnswers): void;
  /** Asks the guest to write to its disks what it holds back. */
  syncSandbox(id: SandboxId, signal: AbortSignal): Promise<void>;

  /** A command that nobody but the caller knows of. */
  exec(id: SandboxId, request: Exec, signal: AbortSignal): Promise<RunningExec>;

  /** Starts a command that has an id and goes on whoever listens, also while the sandbox hibernates. */
  createSession(id: SandboxId, request: NewExecSession, signal: AbortSignal): Promise<ExecSession>;
  /** The same, attached from the start of its output. */
  runSession(
    id: SandboxId,
    request: NewExecSession & {
      /** Forgotten when this attachment has been told of its end. */
      readonly transient: boolean;
    },
    signal: AbortSignal,
  ): Promise<AttachedSession>;
  /** `not_found` for a session that is not there. */
  attachSession(
    id: SandboxId,
    sessionId: string,
    options: AttachOptions,
    signal: AbortSignal,
  ): Promise<AttachedSession>;
  listSessions(id: SandboxId, signal: AbortSignal): Promise<readonly ExecSession[]>;
  /** Resolves when the session has ended or the time is over, whichever comes first. */
  waitForSession(id: SandboxId, sessionId: string, milliseconds: number, signal: AbortSignal): Promise<ExecSession>;
  /** To the process group; nothing happens when it has ended. */
  signalSession(id: SandboxId, sessionId: string, number: number, signal: AbortSignal): Promise<void>;
  resizeSession(id: SandboxId, sessionId: string, size: TerminalSize, signal: AbortSignal): Promise<void>;
  /** Kills everything it has started and forgets it. */
  removeSession(id: SandboxId, sessionId: string, signal: AbortSignal): Promise<void>;

  readFile(id: SandboxId, path: string, range: ByteRange, signal: AbortSignal): Promise<OpenFile>;
  /** Replaces the file at `path` when `content` has ended; before that nothing is visible. Returns the bytes written. */
  writeFile(
    id: SandboxId,
    path: string,
    content: AsyncIterable<Uint8Array>,
    options: { readonly mode?: number },
    signal: AbortSignal,
  ): Promise<number>;
  /** Of a symbolic link what it leads to, or with `noFollow` the link itself. */
  statFile(
    id: SandboxId,
    path: string,
    options: { readonly noFollow?: boolean },
    signal: AbortSignal,
  ): Promise<FileEntry>;
  listDirectory(id: SandboxId, path: string, signal: AbortSignal): Promise<readonly FileEntry[]>;
  makeDirectory(id: SandboxId, path: string, signal: AbortSignal): Promise<void>;
  /** Recursive; a path that does not exist is removed already. */
  removeFile(id: SandboxId, path: string, signal: AbortSignal): Promise<void>;
  /** Replaces what is at `to` and makes the directories above it. */
  renameFile(id: SandboxId, from: string, to: string, signal: AbortSignal): Promise<void>;
  /** What is absent stays as it is. */
  setFileAttributes(
    id: SandboxId,
    path: string,
    attributes: { readonly mode?: number; readonly owner?: string; readonly group?: string },
    signal: AbortSignal,
  ): Promise<FileEntry>;
  /** Resolves when nothing is missed any more; the changes go on until the signal is aborted. */
  watchFiles(
    id: SandboxId,
    path: string,
    options: { readonly recursive: boolean },
    signal: AbortSignal,
  ): Promise<AsyncIterable<readonly FileChange[]>>;

  /**
   * Holds the sandbox's packets to another policy from now on, also those of connections that exist. `not_supported`
   * where it cannot be held: see {@link WorkerDescription}.
   */
  setNetworkPolicy(id: SandboxId, policy: NetworkPolicy): Promise<void>;
  /** What the policy has not let through within the last hour, the newest first. */
  networkRefusals(id: SandboxId): Promise<readonly NetworkRefusal[]>;
  /**
   * Connects to a server in the guest, as a program in the guest would: also one that listens on localhost alone.
   * `not_found` when nothing listens there. The connection lasts until the server has ended it or `signal` aborts.
   */
  openPort(id: SandboxId, port: number, signal: AbortSignal): Promise<PortConnection>;
}

/** Of the image and the shape that was asked for last, which are absent where none was. */
export interface ReadyMachinesState {
  readonly wanted: number;
  readonly ready: number;
  readonly image?: string;
  readonly memoryMib?: number;
  readonly vcpus?: number;
}

/** A TCP connection to a server in the guest. */
export interface PortConnection {
  /** What the server sends, until it has ended. Taking a chunk is what lets it send more. Rejects when it breaks. */
  readonly incoming: AsyncIterable<Uint8Array>;
  /** Settles when more may follow. */
  write(bytes: Uint8Array): Promise<void>;
  /** Nothing more will be written. */
  end(): Promise<void>;
}

export interface WorkerDescription {
  readonly hypervisor: HypervisorName;
  readonly hypervisorVersion: string;
  readonly accelerator: { readonly name: string; readonly reason: string };
  readonly network: {
    readonly mode: string;
    readonly reason: string;
    /** What a policy says that does not hold in this mode, in words; absent: everything holds. */
    readonly notEnforced?: readonly string[];
  };
  /** Names of the images that a sandbox can be started from. */
  readonly images: readonly string[];
}

export type HypervisorName = "qemu" | "firecracker" | "fake";

export interface StartSandbox {
  readonly id: SandboxId;
  /** Rises with every start of the same sandbox; an older one is refused. */
  readonly generation: number;
  /** Whose it is: what is private of one organization is never shared with another. */
  readonly organizationId: string;
  readonly from: StartFrom;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly envs: Readonly<Record<string, string>>;
  readonly networkEnabled: boolean;
  /** `not_supported` where rules cannot be held. */
  readonly egress?: EgressRules | undefined;
}

export type StartFrom =
  | { readonly kind: "image"; readonly image: string }
  /**
   * `identity`: `same` continues the sandbox that was captured (wake, restore), `new` makes another one of it (fork).
   * A shape that differs from the captured one, a snapshot of disks alone, or memory that cannot be restored here: the
   * disks are booted. A snapshot whose files are not what was captured is refused as `incompatible`.
   */
  | {
      readonly kind: "snapshot";
      readonly snapshotId: SnapshotId;
      readonly identity: "same" | "new";
      /** It may be another organization's, which lets everybody make copies of it. */
      readonly public?: boolean;
    };

export interface Capture {
  readonly snapshotId: SnapshotId;
  /** `disks`: the memory is not kept, and what starts from it boots. */
  readonly contents: "memory and disks" | "disks";
}

export interface StoredSnapshot {
  /** What it takes on the host's disk beyond what it shares with others. */
  readonly sizeBytes: number;
}

export interface CapturedSnapshot extends StoredSnapshot {
  /** How long the guest stood still, in milliseconds. */
  readonly pausedMs: number;
}

/** What a guest may ask for itself; none of them rejects. */
export interface GuestAnswers {
  /** `body`: as the guest sent it, of `POST /api/sandboxes/:id/scale`. */
  scale(id: SandboxId, body: unknown): Promise<GuestAnswer>;
}

export interface GuestAnswer {
  /** Of HTTP. */
  readonly status: number;
  readonly body: object;
}

export interface Scaled {
  /** False: the guest cannot do without what it would have to give back, and nothing has changed. */
  readonly done: boolean;
  /** Why not, for people. */
  readonly because?: string;
}

export interface AdoptedSandbox {
  readonly id: SandboxId;
  readonly generation: number;
  /** What its machine has, or its disks are to be booted with. */
  readonly memoryMib: number;
  /** False: its machine has ended meanwhile and only its disks are left, which `powerCycleSandbox` boots. */
  readonly running: boolean;
}

export interface StartedSandbox {
  /** `disk`: the guest was booted, and `restoredBecause` says why its memory was not restored. */
  readonly restoredFrom: "memory" | "disk";
  readonly restoredBecause?: string;
  /** Milliseconds of each part of the start, in order, for `Server-Timing`. */
  readonly spans: readonly Span[];
}

export interface Span {
  readonly name: string;
  readonly milliseconds: number;
}

export interface Progress {
  readonly step: string;
  readonly percent?: number;
}

export interface SandboxEnd {
  /**
   * `stopped`: asked for. `reset`: the guest's kernel was to start again, by its own wish or after a panic. `exited`: the
   * guest powered off or the process died. `detail` says what is known.
   */
  readonly reason: "stopped" | "reset" | "exited";
  readonly detail: string;
}

export interface Exec {
  readonly argv: readonly [string, ...string[]];
  readonly envs?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
  /** 0 or absent: none. */
  readonly timeoutMs?: number;
  /** Without it the command reads end of file at once. */
  readonly stdin?: boolean;
}

/** A command on its way. Aborting the signal of `exec` kills its whole process group. */
export interface RunningExec {
  /** Ends when the result is known. Taking a chunk is what lets the command write more. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Settles after `output` has ended; rejects when the command's end cannot be known. */
  readonly result: Promise<ExecEnd>;
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  /** To the process group. */
  kill(signal: number): Promise<void>;
}

export interface ExecOutput {
  readonly pipe: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

/** Only ever what the guest's kernel said. */
export interface ExecEnd {
  /** 0 when a signal ended it. */
  readonly exitCode: number;
  /** 0 when it exited by itself. */
  readonly signal: number;
  readonly timedOut: boolean;
}

export interface NewExecSession {
  /** 1 to 64 letters, digits, `-` and `_`; `already_exists` for one that is there. */
  readonly id: string;
  /** Without a program, and with a terminal: the shell that the guest has. */
  readonly command: Omit<Exec, "argv"> & { readonly argv: readonly string[] };
  readonly purpose: SessionPurpose;
  /** All output is kept for as long as the session is, and not only the scrollback. */
  readonly keepOutput: boolean;
  /** How long it goes on after the last one attached has gone. 0: until it ends. */
  readonly detachedMs: number;
  /** Its standard input, output and error are one terminal of this size. */
  readonly terminal?: TerminalSize;
}

/** What the control plane has a session for. */
export type SessionPurpose = "exec" | "run" | "terminal" | "agent";

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A command with an id. One that has ended is there for ten minutes more. */
export interface ExecSession {
  readonly id: string;
  /** Shortened where it is very long. */
  readonly argv: readonly string[];
  readonly purpose: SessionPurpose;
  readonly terminal: boolean;
  readonly startedMs: number;
  /** How many are attached now. */
  readonly attached: number;
  /** Absent while it runs, and until all that it has written can be read. */
  readonly end?: ExecEnd;
  readonly endedMs?: number;
  /** Written until now. */
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
  /** Some of what was to be kept could not be: the guest's disk is full, or it is more than is ever kept. */
  readonly truncated: boolean;
}

/** How a session has ended, as those attached hear of it. */
export type EndedSession = Pick<ExecSession, "truncated"> & { readonly end: ExecEnd };

export interface AttachOptions {
  /** From the oldest output that is kept; else from the start of the scrollback. */
  readonly fromStart: boolean;
  /** Absent: both. */
  readonly pipe?: ExecOutput["pipe"];
}

/** One listener to a session. Aborting the signal, or leaving `output` early, detaches; the command goes on. */
export interface AttachedSession {
  readonly startedMs: number;
  /**
   * Ends when the command has ended. Not taking makes the command wait, unless others listen. A session that was just
   * created has no scrollback, and may not tell of its end.
   */
  readonly output: AsyncIterable<ExecOutput | "scrollback end">;
  /** Settles after `output` has ended; rejects when the line to the guest ends before. */
  readonly result: Promise<EndedSession>;
  /** To standard input; settles when the command has taken it, or takes nothing any more. */
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
}

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly kind: "file" | "directory" | "symlink" | "other";
  readonly size: number;
  readonly mode: number;
  readonly modifiedMs: number;
  /** Their names, or numbers for those that have none. */
  readonly owner: string;
  readonly group: string;
  /** What a symbolic link says. */
  readonly linkTarget?: string;
}

/** In bytes. A length of 0, or none: to the end. */
export interface ByteRange {
  readonly offset?: number;
  readonly length?: number;
}

/** `created` may also be another file in the place of an old one; `lost`: more has happened than can be told. */
export interface FileChange {
  readonly kind: "created" | "changed" | "removed" | "lost";
  readonly path: string;
}

export interface OpenFile {
  readonly entry: FileEntry;
  /** Must be taken to its end, or the signal aborted. */
  readonly content: AsyncIterable<Uint8Array>;
}

/** Something that a sandbox's network policy has not let through. */
export interface NetworkRefusal {
  /** The last time, ISO 8601. */
  readonly at: string;
  /** How often within the last hour. */
  readonly count: number;
  readonly protocol: "tcp" | "udp" | "icmp" | "dns" | "tls" | "http";
  /** The name that was asked for. */
  readonly host?: string;
  readonly address?: string;
  readonly port?: number;
  readonly reason: string;
}
