import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Clock } from "../clock.ts";

/** A call to a sandbox on its way: the sandbox is not idle until it is disposed. */
export interface Use extends Disposable {
  /** Something happened. */
  touch(): void;
}

/**
 * How long the sandboxes of this process have been idle. The exact deadline is in memory. The row has one that is up
 * to `slackMs` later and is written only when the exact one would pass it: a busy sandbox costs a write every
 * `slackMs`, and after a crash none ends early nor lives longer than that.
 */
export class Activity {
  readonly #clock: Clock;
  readonly #store: (id: SandboxId, expiresAt: Date) => void;
  readonly #entries = new Map<SandboxId, Entry>();

  constructor(clock: Clock, store: (id: SandboxId, expiresAt: Date) => void) {
    this.#clock = clock;
    this.#store = store;
  }

  /** What the row is to say when the sandbox begins to be idle now. */
  expiresAt(idleTimeoutSeconds: number): Date | undefined {
    if (idleTimeoutSeconds === 0) return undefined;
    return new Date(this.#clock.now() + idleTimeoutSeconds * 1000 + slackMs);
  }

  /** Begins to count, or counts anew with another timeout. The row must say {@link expiresAt} already. */
  watch(id: SandboxId, idleTimeoutSeconds: number): void {
    const entry = this.#entry(id);
    entry.watched = true;
    entry.lastUsed = this.#clock.elapsed();
    entry.idleTimeoutMs = idleTimeoutSeconds * 1000;
    entry.storedUntil = entry.lastUsed + entry.idleTimeoutMs + slackMs;
  }

  /** Goes on counting for a sandbox that another process has watched, whose row says `expiresAt`. */
  resume(id: SandboxId, idleTimeoutSeconds: number, expiresAt: Date | undefined): void {
    this.watch(id, idleTimeoutSeconds);
    const entry = this.#entries.get(id);
    if (entry === undefined || expiresAt === undefined) return;
    entry.storedUntil = this.#clock.elapsed() + expiresAt.getTime() - this.#clock.now();
    entry.lastUsed = Math.min(entry.lastUsed, entry.storedUntil - entry.idleTimeoutMs);
  }

  forget(id: SandboxId): void {
    this.#entries.delete(id);
  }

  /** A call begins. It also counts for a sandbox that is watched only after that. */
  begin(id: SandboxId): Use {
    const entry = this.#entry(id);
    entry.uses++;
    // Of a sandbox that was put away and came back meanwhile, this use is none any more.
    const touch = (): void => {
      if (this.#entries.get(id) === entry) this.#touch(id);
    };
    touch();
    return {
      touch,
      [Symbol.dispose]: () => {
        touch();
        entry.uses--;
        if (entry.uses === 0 && !entry.watched && this.#entries.get(id) === entry) this.#entries.delete(id);
      },
    };
  }

  /** When the sandbox expires if nothing happens any more. */
  deadline(id: SandboxId): Date | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.idleTimeoutMs === 0) return undefined;
    const idleMs = entry.uses > 0 ? 0 : this.#clock.elapsed() - entry.lastUsed;
    return new Date(this.#clock.now() + entry.idleTimeoutMs - idleMs);
  }

  isExpired(id: SandboxId): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.idleTimeoutMs === 0 || entry.uses > 0) return false;
    return this.#clock.elapsed() - entry.lastUsed >= entry.idleTimeoutMs;
  }

  /** Those that have been idle for too long. Those in use are taken note of, so that their rows live on. */
  sweep(): SandboxId[] {
    for (const [id, { uses }] of this.#entries) if (uses > 0) this.#touch(id);
    return [...this.#entries.keys()].filter((id) => this.isExpired(id));
  }

  #entry(id: SandboxId): Entry {
    const entry = this.#entries.get(id) ?? { watched: false, uses: 0, lastUsed: 0, idleTimeoutMs: 0, storedUntil: 0 };
    this.#entries.set(id, entry);
    return entry;
  }

  #touch(id: SandboxId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.lastUsed = this.#clock.elapsed();
    if (entry.idleTimeoutMs === 0 || entry.lastUsed + entry.idleTimeoutMs <= entry.storedUntil) return;
    entry.storedUntil = entry.lastUsed + entry.idleTimeoutMs + slackMs;
    this.#store(id, new Date(this.#clock.now() + entry.idleTimeoutMs + slackMs));
  }
}

interface Entry {
  watched: boolean;
  uses: number;
  lastUsed: number;
  idleTimeoutMs: number;
  /** Until when, by the elapsed clock, the row lets the sandbox live. */
  storedUntil: number;
}

// One write in ten seconds is nothing, and ten seconds more after a crash hurt nobody.
const slackMs = 10_000;
