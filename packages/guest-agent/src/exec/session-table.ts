import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ExecSession } from "./exec-session.ts";

/** How long a session is there after its end. */
const keptMs = 600_000;
/** And one whose creator was told everything. It stays for a moment: the answer may have crossed with a farewell. */
const toldKeptMs = 30_000;
/** How often what is too old is removed. */
const sweepMs = 15_000;
/** So many ended ones are there at most, each perhaps with an open file. */
const maxEnded = 2000;
/** What ended ones may hold of the agent's memory, in bytes. */
const maxEndedMemory = 16 * 2 ** 20;

/** The sessions of a machine by their ids, and what is to become of those that have ended. */
export class SessionTable {
  /** In the order of their start. */
  readonly #sessions = new Map<string, ExecSession>();
  /** Whose commands were started just now. */
  readonly #beginning = new Map<string, PromiseWithResolvers<void>>();
  /** In the order of their end, with when that was and what they hold. */
  readonly #ended = new Map<ExecSession, { readonly at: number; memory: number }>();
  #memory = 0;
  #sweeping: NodeJS.Timeout | undefined;

  /** A place for a new session; disposing it frees it, unless it was taken. @throws invalid_argument, already_exists */
  reserve(id: string): Disposable {
    if (!/^[\w-]{1,64}$/.test(id)) {
      throw new SandboxError("invalid_argument", `${JSON.stringify(id)} cannot be the id of a session`);
    }
    if (this.#sessions.has(id) || this.#beginning.has(id)) {
      throw new SandboxError("already_exists", `session ${id} exists already`, { resource: "exec session", id });
    }
    const begun = Promise.withResolvers<void>();
    this.#beginning.set(id, begun);
    return {
      [Symbol.dispose]: () => {
        this.#beginning.delete(id);
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
    await this.#beginning.get(id)?.promise;
    const session = this.#sessions.get(id);
    if (session === undefined) {
      throw new SandboxError("not_found", "session not found", { resource: "exec session", id });
    }
    return session;
  }

  listed(): readonly ExecSession[] {
    return [...this.#sessions.values()].filter(({ told }) => !told);
  }

  remove(session: ExecSession): void {
    this.#forgetEnd(session);
    if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id);
    session.kill();
    void session.dispose();
  }

  #onEnded(session: ExecSession): void {
    // Perhaps it was removed meanwhile.
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
      if (now - at >= (session.told ? toldKeptMs : keptMs)) this.remove(session);
    }
    this.#sweeping = undefined;
    if (this.#ended.size > 0) this.#sweepLater();
  }

  #sweepLater(): void {
    this.#sweeping = setTimeout(() => this.#sweepOld(), sweepMs);
  }

  /** Keeps what ended sessions take within bounds: those go first that nobody asks for any more. */
  async #relieve(): Promise<void> {
    const inOrder = [...this.#ended.keys()].toSorted((a, b) => Number(b.told) - Number(a.told));
    for (const session of inOrder) {
      const isOver = this.#ended.size > maxEnded || this.#memory > maxEndedMemory;
      // Some more than need be, so that this is not done again at once.
      if (!isOver && (!session.told || this.#ended.size <= maxEnded / 2)) return;
      if (session.told || this.#ended.size > maxEnded) this.remove(session);
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
