import { setTimeout as sleep } from "node:timers/promises";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import type { DatabaseServer } from "#database/database-server.ts";
import { Gates } from "#lifecycle/gates.ts";
import { regularly } from "../service/regularly.ts";
import type { Log } from "../log.ts";
import { gateChannel, listenForNews } from "./news.ts";

export interface SharedGatesOptions {
  readonly database: Database;
  readonly server: DatabaseServer;
  /** The id of this server. */
  readonly serverId: string;
  readonly log: Log;
}

/** How often a gate that another server holds is looked at, besides its news. */
const lookMs = 500;

/** How often a release is repeated while the database does not answer. */
const releaseMs = 1000;

/**
 * Gates that the servers of a database share: an operation holds a row, which is the server's until the operation ends or
 * the server does. Operations of one server queue in its memory as usual, and the first of them waits for the row. A
 * gate of a server that has ended passes to the next operation, which first brings the sandbox in line with its worker.
 */
export class SharedGates extends Gates implements AsyncDisposable {
  readonly #options: SharedGatesOptions;
  readonly #news: AsyncDisposable;
  readonly #releases: AsyncDisposable;
  /** Rows whose release has failed. */
  readonly #unreleased = new Set<SandboxId>();
  readonly #held = new Set<SandboxId>();
  readonly #waiting = new Map<string, Set<() => void>>();

  /** Brings a sandbox in line with its worker after the end of the server that operated on it. Set once, at the start. */
  onInherited: (id: SandboxId) => Promise<void> = () => Promise.resolve();

  constructor(options: SharedGatesOptions) {
    super();
    this.#options = options;
    const { server, log } = options;
    this.#news = listenForNews(server, log, (id) => this.#waiting.get(id)?.forEach((wakeUp) => wakeUp()));
    this.#releases = regularly({ what: "releasing gates of sandboxes", everyMs: releaseMs, log }, async () => {
      for (const id of this.#unreleased) if (!this.#held.has(id)) await this.#remove(id);
    });
  }

  override async run<T>(id: SandboxId, operation: () => Promise<T>): Promise<T> {
    return await super.run(id, async () => {
      await this.#acquire(id);
      this.#held.add(id);
      try {
        return await operation();
      } finally {
        this.#held.delete(id);
        await this.#release(id);
      }
    });
  }

  override async open(id: SandboxId, signal: AbortSignal): Promise<void> {
    for (;;) {
      await super.open(id, signal);
      const holder = await this.#holderElsewhere(id);
      if (holder === undefined) return;
      // The operation of an ended server is brought to an end by passing its gate.
      if (holder === "") await this.run(id, () => Promise.resolve());
      else await this.#waitFor(id, signal);
      signal.throwIfAborted();
    }
  }

  /** Passes the gates of servers that have ended. */
  async passInherited(): Promise<void> {
    const rows = await this.#options.database
      .selectFrom("gates")
      .select("sandbox_id")
      .where("server_id", "=", "")
      .execute();
    await Promise.all(rows.map(({ sandbox_id: id }) => this.run(id as SandboxId, () => Promise.resolve())));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#releases[Symbol.asyncDispose]();
    await this.#news[Symbol.asyncDispose]();
  }

  async #acquire(id: SandboxId): Promise<void> {
    const { database, serverId, log } = this.#options;
    for (;;) {
      // A row of this server is one whose release has failed.
      const { rows } = await sql<{ inherited: number }>`
        INSERT INTO gates (sandbox_id, server_id) VALUES (${id}, ${serverId})
        ON CONFLICT (sandbox_id) DO UPDATE SET server_id = excluded.server_id
          WHERE gates.server_id IN ('', excluded.server_id)
        RETURNING inherited`.execute(database);
      const [row] = rows;
      if (row === undefined) {
        await this.#waitFor(id);
        continue;
      }
      this.#unreleased.delete(id);
      if (row.inherited === 0) return;
      try {
        await this.onInherited(id);
      } catch (error) {
        log("error", "cannot bring a sandbox of an ended server in line with its worker: its worker's return does", {
          sandbox: id,
          ...describeError(error),
        });
      }
      return;
    }
  }

  async #release(id: SandboxId): Promise<void> {
    try {
      await this.#remove(id);
    } catch (error) {
      this.#unreleased.add(id);
      this.#options.log("warn", "cannot release the gate of a sandbox: it is tried again", {
        sandbox: id,
        ...describeError(error),
      });
    }
  }

  async #remove(id: SandboxId): Promise<void> {
    const { database, serverId } = this.#options;
    // Most gates are awaited by no other server, and notifications of PostgreSQL are serial.
    await sql`
      WITH released AS (
        DELETE FROM gates WHERE sandbox_id = ${id} AND server_id = ${serverId} RETURNING awaited)
      SELECT pg_notify(${gateChannel}, ${id}) FROM released WHERE awaited = 1`.execute(database);
    this.#unreleased.delete(id);
  }

  /** Undefined: no other server holds the gate. Empty: the server that held it has ended. */
  async #holderElsewhere(id: SandboxId): Promise<string | undefined> {
    const { database, serverId } = this.#options;
    const row = await database
      .selectFrom("gates")
      .select("server_id")
      .where("sandbox_id", "=", id)
      .where("server_id", "<>", serverId)
      .executeTakeFirst();
    return row?.server_id;
  }

  /** Resolves when the gate may have changed. */
  async #waitFor(id: SandboxId, signal?: AbortSignal): Promise<void> {
    const changed = new AbortController();
    const wakeUp = (): void => changed.abort();
    const waiting = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, waiting.add(wakeUp));
    try {
      const { numUpdatedRows } = await this.#options.database
        .updateTable("gates")
        .set({ awaited: 1 })
        .where("sandbox_id", "=", id)
        .where("server_id", "not in", ["", this.#options.serverId])
        .executeTakeFirst();
      if (numUpdatedRows === 0n) return;
      const enough = signal === undefined ? changed.signal : AbortSignal.any([changed.signal, signal]);
      await sleep(lookMs, undefined, { signal: enough }).catch(() => signal?.throwIfAborted());
    } finally {
      waiting.delete(wakeUp);
      if (waiting.size === 0) this.#waiting.delete(id);
    }
  }
}
