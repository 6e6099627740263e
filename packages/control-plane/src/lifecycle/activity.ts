import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Clock } from "../clock.ts";

/** A call in progress: its sandbox is not idle until the call is disposed, which may happen more than once. */
export interface Use extends Disposable {
  /** Restarts the idle timeout, because the call has made progress. */
  touch(): void;
}

export interface ActivityOptions {
  /**
   * Begins the idle timeout in the row anew. Absent: this server alone uses its rows, and its memory decides when a
   * sandbox is idle.
   */
  readonly renew?: ((id: SandboxId, slackMs: number) => Promise<void>) | undefined;
}

/**
 * How long the sandboxes of this process have been idle. Memory holds the exact deadline. The row holds one that is up to
 * `slackMs` later and is written only when the exact deadline would pass it. So a busy sandbox costs one write every
 * `slackMs`, and after a crash no sandbox expires early or more than `slackMs` late.
 *
 * When several servers use the rows, the deadlines in the rows decide, and each server renews those of the sandboxes that
 * it uses. {@link renewed} then makes sure that no server finds a sandbox idle whose call has begun.
 */
export class Activity {
  readonly #clock: Clock;
  readonly #store: (id: SandboxId, expiresAt: Date) => void;
  readonly #renew: ActivityOptions["renew"];
  readonly #entries = new Map<SandboxId, Entry>();

  constructor(clock: Clock, store: (id: SandboxId, expiresAt: Date) => void, { renew }: ActivityOptions = {}) {
    this.#clock = clock;
    this.#store = store;
    this.#renew = renew;
  }

  /** Resolves when the row has the deadline of the calls that have begun. @throws the database's error */
  async renewed(id: SandboxId): Promise<void> {
    await this.#entries.get(id)?.renewing;
  }

  /** The deadline for the row of a sandbox that becomes idle now. Undefined: it never expires. */
  expiresAt(idleTimeoutSeconds: number): Date | undefined {
    if (idleTimeoutSeconds === 0) return undefined;
    return new Date(this.#clock.now() + idleTimeoutSeconds * 1000 + slackMs);
  }

  /** Starts the idle timeout, or restarts it with another length. The row must hold {@link expiresAt} already. */
  watch(id: SandboxId, idleTimeoutSeconds: number): void {
    const entry = this.#entry(id);
    entry.watched = true;
    entry.lastUsed = this.#clock.elapsed();
    entry.idleTimeoutMs = idleTimeoutSeconds * 1000;
    entry.storedUntil = entry.lastUsed + entry.idleTimeoutMs + slackMs;
    entry.renewedAt = entry.lastUsed;
  }

  /** Continues the idle timeout of a sandbox that another process watched; its row holds `expiresAt`. */
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

  /** Begins a call. The call counts even if the sandbox is watched only later. */
  begin(id: SandboxId): Use {
    const entry = this.#entry(id);
    entry.uses++;
    // The sandbox may have been hibernated and woken since; this call does not count for its new life.
    const touch = (): void => {
      if (this.#entries.get(id) === entry) this.#touch(id);
    };
    touch();
    let hasEnded = false;
    return {
      touch,
      [Symbol.dispose]: () => {
        if (hasEnded) return;
        hasEnded = true;
        touch();
        entry.uses--;
        const isKept = entry.watched || this.#renew !== undefined;
        if (entry.uses === 0 && !isKept && this.#entries.get(id) === entry) this.#entries.delete(id);
      },
    };
  }

  /** When the sandbox expires if no further call comes. Undefined: its row says it. */
  deadline(id: SandboxId): Date | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.idleTimeoutMs === 0 || this.#renew !== undefined) return undefined;
    const idleMs = entry.uses > 0 ? 0 : this.#clock.elapsed() - entry.lastUsed;
    return new Date(this.#clock.now() + entry.idleTimeoutMs - idleMs);
  }

  isExpired(id: SandboxId): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.idleTimeoutMs === 0 || entry.uses > 0) return false;
    return this.#clock.elapsed() - entry.lastUsed >= entry.idleTimeoutMs;
  }

  /**
   * The sandboxes whose idle timeout has passed; none when the rows decide. Renews the stored deadlines of those in use.
   */
  sweep(): SandboxId[] {
    for (const [id, { uses }] of this.#entries) if (uses > 0) this.#touch(id);
    if (this.#renew !== undefined) {
      const since = this.#clock.elapsed() - forgetMs;
      for (const [id, { uses, lastUsed }] of this.#entries) {
        if (uses === 0 && lastUsed < since) this.#entries.delete(id);
      }
      return [];
    }
    return [...this.#entries.keys()].filter((id) => this.isExpired(id));
  }

  #entry(id: SandboxId): Entry {
    const entry = this.#entries.get(id) ?? {
      ...{ watched: false, uses: 0, lastUsed: 0, idleTimeoutMs: 0, storedUntil: 0 },
      renewedAt: -Infinity,
    };
    this.#entries.set(id, entry);
    return entry;
  }

  #touch(id: SandboxId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.lastUsed = this.#clock.elapsed();
    if (this.#renew !== undefined) {
      if (entry.lastUsed - entry.renewedAt >= renewMs) this.#renewRow(id, entry, this.#renew);
      return;
    }
    if (entry.idleTimeoutMs === 0 || entry.lastUsed + entry.idleTimeoutMs <= entry.storedUntil) return;
    entry.storedUntil = entry.lastUsed + entry.idleTimeoutMs + slackMs;
    this.#store(id, new Date(this.#clock.now() + entry.idleTimeoutMs + slackMs));
  }

  #renewRow(id: SandboxId, entry: Entry, renew: NonNullable<ActivityOptions["renew"]>): void {
    entry.renewedAt = entry.lastUsed;
    const renewing = renew(id, slackMs).catch((error: unknown) => {
      // The next call tries again.
      entry.renewedAt = -Infinity;
      throw error;
    });
    // A call awaits it; a sweep does not.
    renewing.catch(() => {});
    entry.renewing = renewing;
  }
}

interface Entry {
  /** When the row was renewed, by the elapsed clock. */
  renewedAt: number;
  renewing?: Promise<void>;
  watched: boolean;
  uses: number;
  lastUsed: number;
  idleTimeoutMs: number;
  /** The deadline in the row, by the elapsed clock. */
  storedUntil: number;
}

// One write in ten seconds for a busy sandbox is negligible, and so are ten more seconds of life after a crash.
const slackMs = 10_000;

// Half of the slack: the other half is for the write, and for clocks of servers that differ.
const renewMs = slackMs / 2;

// A sandbox that was used later than this may be used again before its row has to be renewed.
const forgetMs = 60_000;
