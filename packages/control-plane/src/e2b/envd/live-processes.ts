import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Selector } from "@opensandbox/wire/e2b/envd.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Clock } from "../../clock.ts";
import type { AttachedSession, ExecSession, GuestSessions } from "@opensandbox/wire/worker/sessions.ts";

/** A process that this server has started, with the facts that its guest does not keep. */
export interface LiveProcess {
  readonly pid: number;
  readonly sessionId: string;
  readonly tag: string | undefined;
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
  /** The connection of the client that started the process, while it listens. Input takes this connection. */
  attached: AttachedSession | undefined;
  /** Milliseconds of the elapsed clock. */
  endedAt?: number;
}

/** How long a client can connect to a process that has ended, if the guest still knows it. */
const keptMs = 60_000;

/**
 * The processes of all sandboxes. A restart of the server forgets them: listings then lack their tags and variables.
 */
export class LiveProcesses {
  readonly #clock: Clock;
  readonly #processes = new Map<SandboxId, Map<number, LiveProcess>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(id: SandboxId, process: LiveProcess): void {
    this.#forgetOld();
    const known = this.#processes.get(id) ?? new Map<number, LiveProcess>();
    this.#processes.set(id, known);
    known.set(process.pid, process);
  }

  detach(process: LiveProcess, { ended }: { readonly ended: boolean }): void {
    process.attached = undefined;
    if (ended) process.endedAt = this.#clock.elapsed();
  }

  /** Undefined when another server, or an earlier run of this one, started the process. */
  find(id: SandboxId, { pid, tag }: Selector): LiveProcess | undefined {
    const known = this.#processes.get(id);
    if (pid !== undefined) return known?.get(pid);
    return tag === undefined ? undefined : known?.values().find((process) => process.tag === tag);
  }

  bySession(id: SandboxId, sessionId: string): LiveProcess | undefined {
    return this.#processes
      .get(id)
      ?.values()
      .find((process) => process.sessionId === sessionId);
  }

  #forgetOld(): void {
    const before = this.#clock.elapsed() - keptMs;
    for (const [id, known] of this.#processes) {
      for (const [pid, { endedAt }] of known) if (endedAt !== undefined && endedAt < before) known.delete(pid);
      if (known.size === 0) this.#processes.delete(id);
    }
  }
}

/** The session of the process that a client names. @throws `not_found` */
export async function sessionIdOf(
  processes: LiveProcesses,
  { id, sessions, selector }: { readonly id: SandboxId; readonly sessions: GuestSessions; readonly selector: Selector },
  signal: AbortSignal,
): Promise<string> {
  const known = processes.find(id, selector);
  if (known !== undefined) return known.sessionId;
  const { pid } = selector;
  const found = pid === undefined ? [] : (await sessions.list(signal)).filter((session) => session.pid === pid);
  // When two sessions have one process id, it belongs to the later one.
  const session: ExecSession | undefined = found.toSorted((a, b) => b.startedMs - a.startedMs)[0];
  if (session === undefined) throw processNotFound(selector);
  return session.id;
}

export function processNotFound({ pid, tag }: Selector): SandboxError<"not_found"> {
  const what = pid === undefined ? `tag ${tag ?? ""}` : `pid ${pid}`;
  const details = { resource: "exec", id: String(pid ?? tag ?? "") } as const;
  return new SandboxError("not_found", `process with ${what} not found`, details);
}
