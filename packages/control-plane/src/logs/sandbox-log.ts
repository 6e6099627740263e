import { setTimeout as sleep } from "node:timers/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { ExecSession } from "@opensandbox/wire/worker/sessions.ts";
import type { NetworkRefusal } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxEvent } from "#events/event.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { LineSplitter, type LogLine, type LogSource } from "./log-line.ts";

export interface LogSelection {
  readonly organizationId: string;
  readonly id: SandboxId;
  readonly sources: readonly LogSource[];
}

/** How often the console, the sessions and the refusals of a followed sandbox are read. */
const pollMs = 1000;

/** A guest that does not answer does not keep the rest of the log from its reader. */
const guestTimeoutMs = 5000;

const maxEvents = 1000;

/**
 * Reads a sandbox's log, and does not wake a sandbox for it: one that does not run has its lifecycle alone. What has
 * been written so far comes as one list, oldest first and the console before it; then lines as they come, with
 * `follows`, until the signal aborts. The consumer's pace is that of the reader: it holds one round of lines.
 */
export async function* readLog(
  context: SandboxContext,
  selection: LogSelection,
  { follows, signal }: { readonly follows: boolean; readonly signal: AbortSignal },
): AsyncGenerator<readonly LogLine[], void> {
  // @throws `not_found` before the first line
  await context.stores.sandboxes.get(selection.organizationId, selection.id);
  const reader = new LogReader(context, selection);
  const first = await reader.read(signal);
  yield [...first.filter(({ at }) => at === undefined), ...sorted(first.filter(({ at }) => at !== undefined))];
  if (!follows) return;
  for (;;) {
    await sleep(pollMs, undefined, { signal });
    const lines = await reader.read(signal);
    if (lines.length > 0) yield sorted(lines);
  }
}

function sorted(lines: readonly LogLine[]): readonly LogLine[] {
  return lines.toSorted((one, other) => (one.at?.getTime() ?? 0) - (other.at?.getTime() ?? 0));
}

/** Knows what its caller has read. */
class LogReader {
  readonly #context: SandboxContext;
  readonly #selection: LogSelection;
  readonly #console = new LineSplitter();
  #consoleText = "";
  #eventCursor: number | undefined;
  readonly #refusals = new Map<string, string>();
  /** Sessions that have been read, by id: those that run, with the bytes that were read. */
  readonly #sessions = new Map<string, SessionProgress>();

  constructor(context: SandboxContext, selection: LogSelection) {
    this.#context = context;
    this.#selection = selection;
  }

  /** The lines since the last call. */
  async read(signal: AbortSignal): Promise<LogLine[]> {
    const { stores, placement } = this.#context;
    const { organizationId, id } = this.#selection;
    const { state, workerId } = await stores.sandboxes.get(organizationId, id);
    const isHere = state === "running" && placement.includes(workerId);
    const until = AbortSignal.any([signal, AbortSignal.timeout(guestTimeoutMs)]);
    const parts = [
      this.#lifecycle(),
      ...(isHere ? [this.#readConsole(), this.#readRefusals(), this.#readSessions(until)] : []),
    ];
    const lines = await Promise.all(
      // A machine that ends meanwhile, or a guest that is silent, has no more to say.
      parts.map((part) =>
        part.catch((error: unknown) => (isExpected(error) && !signal.aborted ? [] : Promise.reject(error))),
      ),
    );
    return lines.flat();
  }

  #wants(source: LogSource): boolean {
    return this.#selection.sources.includes(source);
  }

  async #lifecycle(): Promise<LogLine[]> {
    if (!this.#wants("lifecycle")) return [];
    const { events } = this.#context.stores;
    const { organizationId, id } = this.#selection;
    const selected = { organizationId, sandboxId: id };
    const page = await (this.#eventCursor === undefined
      ? events.newest(selected, maxEvents)
      : events.after(this.#eventCursor, selected, maxEvents));
    this.#eventCursor = page.cursor;
    return page.events.map(lineOfEvent);
  }

  async #readConsole(): Promise<LogLine[]> {
    if (!this.#wants("console")) return [];
    const text = await this.#context.worker.readConsole(this.#selection.id);
    const fresh = text.slice(overlap(this.#consoleText, text));
    this.#consoleText = text;
    return this.#console.text(fresh).map((line) => ({ source: "console", line }));
  }

  async #readRefusals(): Promise<LogLine[]> {
    if (!this.#wants("refusal")) return [];
    const refusals = await this.#context.worker.networkRefusals(this.#selection.id);
    return refusals.flatMap((refusal) => {
      const { at, count: _, ...what } = refusal;
      const key = JSON.stringify(what);
      if (this.#refusals.get(key) === at) return [];
      this.#refusals.set(key, at);
      return [lineOfRefusal(refusal)];
    });
  }

  async #readSessions(signal: AbortSignal): Promise<LogLine[]> {
    if (!["exec_stdout", "exec_stderr", "agent"].some((source) => this.#wants(source as LogSource))) return [];
    const { sessions } = this.#context.worker.guest(this.#selection.id);
    const present = await sessions.list(signal);
    const lines: LogLine[] = [];
    for (const session of present) lines.push(...(await this.#readSession(session, signal)));
    const ids = new Set(present.map(({ id }) => id));
    for (const id of this.#sessions.keys()) if (!ids.has(id)) this.#sessions.delete(id);
    return lines;
  }

  /** Reads what a session keeps, and returns the part that is new. A terminal is a screen, and has no lines. */
  async #readSession(session: ExecSession, signal: AbortSignal): Promise<LogLine[]> {
    if (session.terminal) return [];
    const progress = this.#sessions.get(session.id) ?? newProgress();
    this.#sessions.set(session.id, progress);
    const isNew = session.stdoutBytes > progress.stdout.bytes || session.stderrBytes > progress.stderr.bytes;
    const hasEnded = session.end !== undefined && !progress.hasEnded;
    if (!isNew && !hasEnded) return [];
    const lines: LogLine[] = [];
    const add = (pipe: "stdout" | "stderr", texts: readonly string[]): void => {
      const source = session.purpose === "agent" ? "agent" : (`exec_${pipe}` as const);
      if (this.#wants(source)) lines.push(...texts.map((line) => lineOfSession(session, source, line)));
    };
    if (isNew) {
      using detach = new Detaching(signal);
      const { sessions } = this.#context.worker.guest(this.#selection.id);
      const attached = await sessions.attach(session.id, { fromStart: true }, detach.signal);
      attached.result.catch(() => undefined);
      const total = { stdout: session.stdoutBytes, stderr: session.stderrBytes };
      /** Bytes of each pipe that are kept no longer, or have been read before. */
      const seen = { stdout: 0, stderr: 0 };
      for await (const part of attached.output) {
        if (part === "scrollback end") break;
        const { pipe, bytes } = part;
        const skipped = Math.min(bytes.length, Math.max(0, progress[pipe].bytes - seen[pipe]));
        seen[pipe] += bytes.length;
        add(pipe, progress[pipe].lines.push(bytes.subarray(skipped)));
        // What has been written since the list is for the next round.
        if (seen.stdout >= total.stdout && seen.stderr >= total.stderr) break;
      }
      for (const pipe of ["stdout", "stderr"] as const)
        progress[pipe].bytes = Math.max(progress[pipe].bytes, seen[pipe]);
    }
    if (session.end !== undefined) {
      progress.hasEnded = true;
      add("stdout", progress.stdout.lines.end());
      add("stderr", progress.stderr.lines.end());
    }
    return lines;
  }
}

interface SessionProgress {
  readonly stdout: { bytes: number; readonly lines: LineSplitter };
  readonly stderr: { bytes: number; readonly lines: LineSplitter };
  hasEnded: boolean;
}

function newProgress(): SessionProgress {
  return {
    stdout: { bytes: 0, lines: new LineSplitter() },
    stderr: { bytes: 0, lines: new LineSplitter() },
    hasEnded: false,
  };
}

/** Leaves a session when it is disposed. */
class Detaching implements Disposable {
  readonly #left = new AbortController();
  readonly signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.signal = AbortSignal.any([signal, this.#left.signal]);
  }

  [Symbol.dispose](): void {
    this.#left.abort();
  }
}

/** How much of `text` a reader has who knows `before`: a console keeps its end alone. */
function overlap(before: string, text: string): number {
  if (text.startsWith(before)) return before.length;
  // Some hundred characters identify a place.
  const end = before.slice(-512);
  const at = text.lastIndexOf(end);
  return at === -1 ? 0 : at + end.length;
}

function isExpected(error: unknown): boolean {
  const isAborted = error instanceof Error && (error.name === "AbortError" || error.name === "TimeoutError");
  return (
    isAborted ||
    (["not_found", "unavailable", "wrong_state", "canceled", "timed_out", "gone"] as const).some((code) =>
      isSandboxError(error, code),
    )
  );
}

function lineOfEvent({ facts, createdAt }: SandboxEvent): LogLine {
  const data = Object.entries(facts.data).map(([name, value]) => ` ${name}=${String(value)}`);
  return { source: "lifecycle", at: createdAt, line: `${facts.type.replace(/^sandbox\./, "")}${data.join("")}` };
}

function lineOfRefusal({ at, protocol, host, address, port, reason }: NetworkRefusal): LogLine {
  const where = [host, address].filter((part) => part !== undefined).join(" ");
  const place = port === undefined || port === 0 ? where : `${where}:${port}`;
  return { source: "refusal", at: new Date(at), line: `${protocol} ${place}: ${reason}` };
}

function lineOfSession({ id, argv, startedMs, end }: ExecSession, source: LogSource, line: string): LogLine {
  const exitCode = end === undefined || end.signal !== 0 ? {} : { exitCode: end.exitCode };
  return { source, line, at: new Date(startedMs), session: { id, argv, ...exitCode } };
}
