import { z } from "zod";
import { SandboxError } from "../errors.ts";
import { envs } from "../public/fields.ts";
import type { FileEntry } from "../worker/files.ts";
import type { ExecEnd, ExecOutput } from "../worker/sessions.ts";

/** The guest port by which clients address the guest's interface. Nothing listens there. */
export const envdPort = 49_983;

const Selector = z.object({ pid: z.int().optional(), tag: z.string().optional() });
export type Selector = z.infer<typeof Selector>;

const Size = z.object({ cols: z.int().min(1).max(10_000), rows: z.int().min(1).max(10_000) });
const Pty = z.object({ size: Size.optional() });

export const StartRequest = z.object({
  process: z.object({
    cmd: z.string(),
    args: z.array(z.string()).optional(),
    envs: envs.optional(),
    cwd: z.string().optional(),
  }),
  pty: Pty.optional(),
  tag: z.string().optional(),
  stdin: z.boolean().optional(),
});
export type StartRequest = z.infer<typeof StartRequest>;

export const ConnectRequest = z.object({ process: Selector });
export const NoRequest = z.object({});

const Input = z.object({ stdin: z.string().optional(), pty: z.string().optional() });
export const SendInputRequest = z.object({ process: Selector, input: Input });
export type SendInputRequest = z.infer<typeof SendInputRequest>;

export const SendSignalRequest = z.object({ process: Selector, signal: z.union([z.string(), z.int()]).optional() });
export const UpdateRequest = z.object({ process: Selector, pty: Pty.optional() });

export const PathRequest = z.object({ path: z.string() });
export const MoveRequest = z.object({ source: z.string(), destination: z.string() });
export const ListDirRequest = z.object({ path: z.string(), depth: z.int().min(0).optional() });

export const WatchRequest = z.object({
  path: z.string(),
  recursive: z.boolean().optional(),
  includeEntry: z.boolean().optional(),
});
export type WatchRequest = z.infer<typeof WatchRequest>;

export const WatcherRequest = z.object({ watcherId: z.string() });

/** The number of a signal that a client names. @throws `not_supported` for any but the two of this interface */
export function signalFrom(signal: string | number | undefined): number {
  if (signal === "SIGNAL_SIGKILL" || signal === 9) return 9;
  if (signal === "SIGNAL_SIGTERM" || signal === 15) return 15;
  throw new SandboxError("not_supported", `signal ${signal ?? "UNSPECIFIED"} is not supported: use SIGTERM or SIGKILL`);
}

export interface ProcessEvent {
  readonly event: object;
}

export const keepAliveEvent: ProcessEvent = { event: { keepalive: {} } };

export function startEventOf(pid: number): ProcessEvent {
  return { event: { start: { pid } } };
}

/** A piece of output. A terminal has one stream, whose bytes are the terminal's. */
export function dataEventOf({ pipe, bytes }: ExecOutput, terminal: boolean, base64: Base64): ProcessEvent {
  return { event: { data: { [terminal ? "pty" : pipe]: base64(bytes) } } };
}

export type Base64 = (bytes: Uint8Array) => string;

export function endEventOf({ exitCode, signal }: ExecEnd): ProcessEvent {
  if (signal !== 0) {
    const status = signal === 9 ? "signal: killed" : signal === 15 ? "signal: terminated" : `signal: ${signal}`;
    return { event: { end: { exitCode: -1, exited: false, status, error: status } } };
  }
  const status = `exit status ${exitCode}`;
  return { event: { end: { exitCode, exited: true, status, ...(exitCode === 0 ? {} : { error: status }) } } };
}

/** A running process as a list shows it. */
export interface ProcessInfo {
  readonly config: {
    readonly cmd: string;
    readonly args: readonly string[];
    readonly envs: Readonly<Record<string, string>>;
    readonly cwd?: string;
  };
  readonly pid: number;
  readonly tag?: string;
}

/** A file as this interface describes it. Sizes are text, as 64-bit numbers are in the JSON of protobuf. */
export interface EntryInfo {
  readonly name: string;
  readonly type: "FILE_TYPE_FILE" | "FILE_TYPE_DIRECTORY" | "FILE_TYPE_SYMLINK" | "FILE_TYPE_UNSPECIFIED";
  readonly path: string;
  readonly size: string;
  readonly mode: number;
  readonly permissions: string;
  readonly owner: string;
  readonly group: string;
  readonly modifiedTime: string;
  readonly symlinkTarget?: string;
}

const types = {
  file: "FILE_TYPE_FILE",
  directory: "FILE_TYPE_DIRECTORY",
  symlink: "FILE_TYPE_SYMLINK",
  other: "FILE_TYPE_UNSPECIFIED",
} as const;

/** The description of a file. A symbolic link has the type and mode of `target`, or its own when it leads nowhere. */
export function entryInfoOf(
  entry: FileEntry,
  link?: { readonly path: string; readonly target: FileEntry | undefined },
): EntryInfo {
  const { kind, mode, size } = link?.target ?? entry;
  return {
    name: entry.name,
    type: types[kind],
    path: entry.path,
    size: String(size),
    mode: mode & 0o777,
    permissions: permissionsOf(kind, mode),
    owner: entry.owner,
    group: entry.group,
    modifiedTime: new Date(entry.modifiedMs).toISOString(),
    ...(link === undefined ? {} : { symlinkTarget: link.path }),
  };
}

function permissionsOf(kind: FileEntry["kind"], mode: number): string {
  const letters = "rwxrwxrwx".split("").map((letter, index) => ((mode & (0o400 >> index)) === 0 ? "-" : letter));
  return `${{ file: "-", directory: "d", symlink: "L", other: "?" }[kind]}${letters.join("")}`;
}

export interface FilesystemEvent {
  readonly name: string;
  readonly type: "EVENT_TYPE_CREATE" | "EVENT_TYPE_WRITE" | "EVENT_TYPE_REMOVE";
  readonly entry?: EntryInfo;
}

/** The text whose SHA-256 signs a URL of a file. */
export function signedText({ path, operation, username, token, expiration }: SignedUrl): string {
  return [path, operation, username, token, ...(expiration === undefined ? [] : [expiration])].join(":");
}

export interface SignedUrl {
  /** The path as the query spells it. */
  readonly path: string;
  readonly operation: "read" | "write";
  /** Empty when the query names none. */
  readonly username: string;
  readonly token: string;
  /** Seconds since 1970, as the query spells them. */
  readonly expiration: string | undefined;
}
