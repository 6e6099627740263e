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
    const lastUsed = this.#clock.elapsed();
    const idleTimeoutMs = idleTimeoutSeconds * 1000;
    const storedUntil = lastUsed + idleTimeoutMs + slackMs;
    this.#entries.set(id, { uses: this.#entries.get(id)?.uses ?? 0, lastUsed, idleTimeoutMs, storedUntil });
  }

  forget(id: SandboxId): void {
    this.#entries.delete(id);
  }

  /** A call begins; for a sandbox that is not watched it counts nothing. */
  begin(id: SandboxId): Use {
    const entry = this.#entries.get(id);
    if (entry === undefined) return { touch: () => {}, [Symbol.dispose]: () => {} };
    entry.uses++;
    const touch = (): void => this.#touch(id);
    touch();
    return {
      touch,
      [Symbol.dispose]: () => {
        touch();
        const current = this.#entries.get(id);
        if (current !== undefined) current.uses--;
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
  uses: number;
  lastUsed: number;
  readonly idleTimeoutMs: number;
  /** Until when, by the elapsed clock, the row lets the sandbox live. */
  storedUntil: number;
}

// One write in ten seconds is nothing, and ten seconds more after a crash hurt nobody.
const slackMs = 10_000;
