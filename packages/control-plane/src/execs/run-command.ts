import { randomHex } from "@opensandbox/wire/ids.ts";
import type {
  AttachedSession,
  Exec,
  ExecEnd,
  ExecOutput,
  ExecSession,
  GuestSessions,
} from "@opensandbox/wire/worker/sessions.ts";
import { ByteBuffer } from "./byte-buffer.ts";

/** Output up to this size is held here, in bytes; a larger one stays in the guest until it is requested. */
const heldBytes = 2 ** 20;

/** The end of a command and its output. */
export interface RunResult {
  readonly end: ExecEnd;
  /** The output, in memory or streamed from the guest. */
  readonly stdout: Uint8Array | AsyncIterable<Uint8Array>;
  readonly stderr: Uint8Array | AsyncIterable<Uint8Array>;
  /** Whether some of the output is missing. */
  readonly truncated: boolean;
}

/** A command that runs for its result. It keeps running after its caller leaves. */
export interface StartedCommand {
  readonly startedMs: number;
  /**
   * The result of a command with little output that ends while this call is attached. Undefined for every other command,
   * and when the line to the guest breaks. Never rejects.
   */
  readonly quickResult: Promise<RunResult | undefined>;
}

/** Resolves when the command runs. Aborting the signal does not end it. @throws why it cannot start */
export async function startCommand(
  sessions: GuestSessions,
  { id, command }: { readonly id: string; readonly command: Exec },
  signal: AbortSignal,
): Promise<StartedCommand> {
  const request = { id, command, purpose: "run", keepOutput: true, whenDetached: "keep", transient: true } as const;
  const attached = await sessions.run(request, signal);
  return { startedMs: attached.startedMs, quickResult: heldResult(attached).catch(() => undefined) };
}

/** The beginning of the ids of sessions that keep their sandbox awake. The guest stores it over a restart and a wake. */
const awakePrefix = "awake-";

/** A random id of 32 bits, the format that the published clients know. */
export function newSessionId({ keepAwake = false }: { readonly keepAwake?: boolean | undefined } = {}): string {
  return `${keepAwake ? awakePrefix : ""}${randomHex(4)}`;
}

/** Whether a sandbox is not idle while the session with this id runs. */
export function keepsAwake(sessionId: string): boolean {
  return sessionId.startsWith(awakePrefix);
}

/** The result of a session that has ended. */
export async function resultOf(
  sessions: GuestSessions,
  session: ExecSession & { readonly end: ExecEnd },
  signal: AbortSignal,
): Promise<RunResult> {
  const { id, end, truncated, stdoutBytes, stderrBytes } = session;
  if (stdoutBytes + stderrBytes <= heldBytes) {
    const held = await heldResult(await sessions.attach(id, { fromStart: true }, signal));
    if (held !== undefined) return held;
  }
  const pipe = (name: ExecOutput["pipe"]) => outputOf(sessions, { id, pipe: name }, signal);
  return { end, truncated, stdout: pipe("stdout"), stderr: pipe("stderr") };
}

export function hasEnded(session: ExecSession): session is ExecSession & { readonly end: ExecEnd } {
  return session.end !== undefined;
}

/** Undefined when the output exceeds the bound. */
async function heldResult(attached: AttachedSession): Promise<RunResult | undefined> {
  const held = { stdout: new ByteBuffer(), stderr: new ByteBuffer() };
  for await (const part of attached.output) {
    if (part === "scrollback end") continue;
    held[part.pipe].add(part.bytes);
    if (held.stdout.length + held.stderr.length > heldBytes) return undefined;
  }
  const { end, truncated } = await attached.result;
  return { end, truncated, stdout: held.stdout.bytes, stderr: held.stderr.bytes };
}

async function* outputOf(
  sessions: GuestSessions,
  { id, pipe }: { readonly id: string; readonly pipe: ExecOutput["pipe"] },
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { output } = await sessions.attach(id, { fromStart: true, pipe }, signal);
  for await (const part of output) if (part !== "scrollback end") yield part.bytes;
}
