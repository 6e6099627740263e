import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ExecSession } from "./exec-session.ts";

/** How long a session is kept after its end. */
const keptMs = 600_000;
/** How long a session is kept after its end was sent to its creator. Not 0: a disconnect may have lost that answer. */
const deliveredKeptMs = 30_000;
/** Interval between removals of expired sessions. */
const sweepMs = 15_000;
/** Limit of ended sessions, since each may hold an open file. */
const maxEnded = 2000;
/** Limit of the agent's memory that ended sessions hold, in bytes. */
const maxEndedMemory = 16 * 2 ** 20;

/** The sessions of a machine by id. It removes or unloads sessions that have ended. */
export class SessionTable {
  /** In order of their start. */
  readonly #sessions = new Map<string, ExecSession>();
  /** Ids whose commands are being started. */
  readonly #starting = new Map<string, PromiseWithResolvers<void>>();
  /** In order of their end, with its time and the memory they hold. */
  readonly #ended = new Map<ExecSession, { readonly at: number; memory: number }>();
  #memory = 0;
  #sweeping: NodeJS.Timeout | undefined;

  /** Reserves the id of a new session until disposed. @throws invalid_argument, already_exists */
  reserve(id: string): Disposable {
    if (!/^[\w-]{1,64}$/.test(id)) {
      throw new SandboxError(
        "invalid_argument",
        `${JSON.stringify(id)} is not a session id: use 1 to 64 letters, digits, "-" and "_"`,
      );
    }
    if (this.#sessions.has(id) || this.#starting.has(id)) {
      throw new SandboxError("already_exists", `session ${id} exists already`, { resource: "exec session", id });
    }
    const begun = Promise.withResolvers<void>();
    this.#starting.set(id, begun);
    return {
      [Symbol.dispose]: () => {
        this.#starting.delete(id);
        begun.resolve();
      },
    };
  }

  add(session: ExecSession): void {
    this.#sessions.set(session.id, session);
    if (session.isRunning) void session.ended.then(() => this.#onEnded(session));
    else this.#onEnded(session);
  }

  /** @throws not_found */
  async get(id: string): Promise<ExecSession> {
    await this.#starting.get(id)?.promise;
    const session = this.#sessions.get(id);
    if (session === undefined) {
      throw new SandboxError("not_found", "session not found", { resource: "exec session", id });
    }
    return session;
  }

  listed(): readonly ExecSession[] {
    return [...this.#sessions.values()].filter(({ delivered }) => !delivered);
  }

  remove(session: ExecSession): void {
    this.#forgetEnd(session);
    if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id);
    session.kill();
    void session.dispose();
  }

  #onEnded(session: ExecSession): void {
    // The session may have been removed meanwhile.
    if (this.#sessions.get(session.id) !== session) return;
    const memory = session.memoryBytes;
    this.#ended.set(session, { at: performance.now(), memory });
    this.#memory += memory;
    if (this.#sweeping === undefined) this.#sweepLater();
    if (this.#memory > maxEndedMemory || this.#ended.size > maxEnded) void this.#relieve();
  }

  #forgetEnd(session: ExecSession): void {
    this.#memory -= this.#ended.get(session)?.memory ?? 0;
    this.#ended.delete(session);
  }

  #sweepOld(): void {
    const now = performance.now();
    for (const [session, { at }] of this.#ended) {
      if (now - at >= (session.delivered ? deliveredKeptMs : keptMs)) this.remove(session);
    }
    this.#sweeping = undefined;
    if (this.#ended.size > 0) this.#sweepLater();
  }

  #sweepLater(): void {
    this.#sweeping = setTimeout(() => this.#sweepOld(), sweepMs);
  }

  /** Brings ended sessions back within their limits, delivered ones first. */
  async #relieve(): Promise<void> {
    const inOrder = [...this.#ended.keys()].toSorted((a, b) => Number(b.delivered) - Number(a.delivered));
    for (const session of inOrder) {
      const isOver = this.#ended.size > maxEnded || this.#memory > maxEndedMemory;
      // More than necessary, so that this does not run again at once.
      if (!isOver && (!session.delivered || this.#ended.size <= maxEnded / 2)) return;
      if (session.delivered || this.#ended.size > maxEnded) this.remove(session);
      else await this.#moveToDisk(session);
    }
  }

  async #moveToDisk(session: ExecSession): Promise<void> {
    const end = this.#ended.get(session);
    if (end === undefined) return;
    this.#memory -= end.memory;
    end.memory = 0;
    await session.leaveMemory();
  }
}
