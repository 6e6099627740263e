import { setImmediate as turn } from "node:timers/promises";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import { sql, type RawBuilder } from "kysely";
import { dropCheckpoint } from "#checkpoints/checkpoint-store.ts";
import { type Database, openDatabase } from "#database/database.ts";
import type { Tables } from "#database/tables.ts";
import { headOf } from "#events/event-store.ts";
import type { DatabaseLocation } from "#database/database-server.ts";
import { inTransaction } from "#database/transaction.ts";
import { Snapshots } from "#snapshots/snapshots.ts";
import type { Log } from "../log.ts";

/** How many rows of each kind are old. */
export interface OldRows {
  readonly stoppedSandboxes: number;
  readonly failedCheckpoints: number;
  readonly failedImages: number;
  readonly events: number;
  readonly deliveries: number;
}

/** An image that was built for a create and has no name. The same steps build it again. */
export interface UnnamedImage {
  readonly id: string;
  readonly snapshotId: SnapshotId;
  readonly lastUsedAt: Date;
}

/** Events stay this much longer than other rows, in milliseconds: usage reports reach back this far. */
const usageMs = 90 * 24 * 3_600_000;

/** How many events are kept, with their deliveries. The oldest beyond this number are removed, whatever their age. */
const maxEvents = 1_000_000;

/** Rows removed in one transaction. Requests are served between two transactions. */
const rowsAtOnce = 500;

/**
 * Removes rows that are kept for a time only: those of stopped sandboxes, of failed checkpoints and images, and those of
 * unnamed images. Each removal compares the row again in its transaction, so a use of the row wins every race.
 */
export class RowRetention {
  readonly #database: Database;
  readonly #maxEvents: number;

  constructor(database: Database, options: { readonly maxEvents?: number } = {}) {
    this.#database = database;
    this.#maxEvents = options.maxEvents ?? maxEvents;
  }

  async countOld(before: Date): Promise<OldRows> {
    const count = async (table: RawBuilder<unknown>, condition: RawBuilder<unknown>): Promise<number> => {
      const { rows } = await sql<{ count: number }>`
        SELECT count(*) AS count FROM ${table} WHERE ${condition}`.execute(this.#database);
      return rows[0]?.count ?? 0;
    };
    return {
      stoppedSandboxes: await count(sql`sandboxes`, oldSandbox(before)),
      failedCheckpoints: await count(sql`checkpoints`, oldCheckpoint(before)),
      failedImages: await count(sql`images`, oldImage(before)),
      events: await count(sql`events`, await this.#oldEvent(before)),
      deliveries: await count(sql`webhook_deliveries`, await this.#oldDelivery(before)),
    };
  }

  /** Removes the rows that {@link countOld} counts. An abort of the signal leaves the rest for the next time. */
  async removeOld(before: Date, signal: AbortSignal): Promise<OldRows> {
    // Removes old rows of workers: every start of a server adds one.
    await this.#database
      .deleteFrom("worker_heartbeats")
      .where("alive_at", "<", before.getTime() - usageMs)
      .execute();
    // Likewise the use of machines. No process that still runs has numbers this old.
    const end = before.getTime() - usageMs;
    await this.#inBatches(signal, () => this.#removeBatch("measured_processes", "process", sql`measured_at < ${end}`));
    await this.#inBatches(signal, () => this.#removeBatch("measured_hours", "hour", sql`hour < ${end}`));
    return {
      stoppedSandboxes: await this.#inBatches(signal, () => this.#removeSandboxes(before)),
      failedCheckpoints: await this.#inBatches(signal, () => this.#removeCheckpoints(before)),
      failedImages: await this.#inBatches(signal, () => this.#removeImages(before)),
      events: await this.#inBatches(signal, async () => {
        return await this.#removeBatch("events", "sequence", await this.#oldEvent(before));
      }),
      deliveries: await this.#inBatches(signal, async () => {
        return await this.#removeBatch("webhook_deliveries", "id", await this.#oldDelivery(before));
      }),
    };
  }

  /**
   * The images of an organization that have no name, are not public and were not used since `before`, and from which
   * neither a sandbox nor another checkpoint exists.
   */
  async unusedImages(organizationId: string, before: Date): Promise<readonly UnnamedImage[]> {
    const { rows } = await sql<{ id: string }>`
      SELECT images.id FROM images JOIN checkpoints ON checkpoints.id = images.checkpoint_id
      WHERE images.organization_id = ${organizationId} AND images.last_used_at < ${before.getTime()}
        AND checkpoints.is_public = 0
        AND NOT EXISTS (SELECT 1 FROM sandboxes
          WHERE sandboxes.from_checkpoint_id = checkpoints.id AND sandboxes.state <> 'stopped')`.execute(
      this.#database,
    );
    const unused = new Set(rows.map(({ id }) => id));
    return (await this.unnamedImages()).filter(({ id }) => unused.has(id));
  }

  /** The unnamed images whose snapshot no other row refers to. */
  async unnamedImages(): Promise<readonly UnnamedImage[]> {
    const rows = await this.#database
      .selectFrom("images")
      .innerJoin("checkpoints", "checkpoints.id", "images.checkpoint_id")
      .select(["images.id", "images.last_used_at", "checkpoints.snapshot_id"])
      .where("images.name", "is", null)
      .where("images.status", "=", "ready")
      .where(
        sql<boolean>`NOT EXISTS (SELECT 1 FROM checkpoints AS other
          WHERE other.snapshot_id = checkpoints.snapshot_id AND other.id <> checkpoints.id)`,
      )
      .where(sql<boolean>`NOT EXISTS (SELECT 1 FROM sandboxes WHERE hibernation_snapshot_id = checkpoints.snapshot_id)`)
      .execute();
    return rows.map((row) => ({
      id: row.id,
      snapshotId: row.snapshot_id as SnapshotId,
      lastUsedAt: new Date(row.last_used_at),
    }));
  }

  /** Removes an image unless it was used or named since. Its files go with the unwanted snapshots. */
  async removeUnnamedImage({ id, lastUsedAt }: UnnamedImage): Promise<boolean> {
    return await inTransaction(this.#database, async (transaction) => {
      const removed = await transaction
        .deleteFrom("images")
        .where("id", "=", id)
        .where("name", "is", null)
        .where("status", "=", "ready")
        .where("last_used_at", "=", lastUsedAt.getTime())
        .returning("checkpoint_id")
        .executeTakeFirst();
      if (removed === undefined) return false;
      const checkpoint = await transaction
        .selectFrom("checkpoints")
        .select(["id", "snapshot_id"])
        .where("id", "=", removed.checkpoint_id)
        .executeTakeFirst();
      if (checkpoint !== undefined) {
        await dropCheckpoint(transaction, { id: checkpoint.id, snapshotId: checkpoint.snapshot_id as SnapshotId });
      }
      return true;
    });
  }

  /** Removes the files of unwanted snapshots. Only for use while no server runs: a server knows which are being read. */
  async removeUnwantedSnapshots(remove: (id: SnapshotId) => Promise<void>, log: Log): Promise<void> {
    await new Snapshots(this.#database, { removeSnapshot: remove }, log).removeUnwanted();
  }

  async #inBatches(signal: AbortSignal, removeBatch: () => Promise<number>): Promise<number> {
    let sum = 0;
    for (;;) {
      signal.throwIfAborted();
      const removed = await removeBatch();
      sum += removed;
      if (removed < rowsAtOnce) return sum;
      // SQLite's calls do not yield, and requests must not wait for all batches.
      await turn();
    }
  }

  async #removeSandboxes(before: Date): Promise<number> {
    return await inTransaction(this.#database, async (transaction) => {
      const { rows } = await sql<{ id: string }>`
        DELETE FROM sandboxes WHERE id IN (
          SELECT id FROM sandboxes WHERE ${oldSandbox(before)} LIMIT ${sql.lit(rowsAtOnce)}
        ) RETURNING id`.execute(transaction);
      if (rows.length > 0) {
        const ids = rows.map(({ id }) => id);
        await transaction.deleteFrom("previews").where("sandbox_id", "in", ids).execute();
      }
      return rows.length;
    });
  }

  async #removeCheckpoints(before: Date): Promise<number> {
    return await inTransaction(this.#database, async (transaction) => {
      const { rows } = await sql<{ id: string; snapshot_id: SnapshotId }>`
        SELECT id, snapshot_id FROM checkpoints WHERE ${oldCheckpoint(before)}
        LIMIT ${sql.lit(rowsAtOnce)}`.execute(transaction);
      for (const { id, snapshot_id: snapshotId } of rows) await dropCheckpoint(transaction, { id, snapshotId });
      return rows.length;
    });
  }

  async #removeImages(before: Date): Promise<number> {
    return await this.#removeBatch("images", "id", oldImage(before));
  }

  async #removeBatch(table: keyof Tables, key: string, condition: RawBuilder<unknown>): Promise<number> {
    const { numAffectedRows } = await sql`
      DELETE FROM ${sql.table(table)} WHERE ${sql.ref(key)} IN (
        SELECT ${sql.ref(key)} FROM ${sql.table(table)} WHERE ${condition} LIMIT ${sql.lit(rowsAtOnce)}
      )`.execute(this.#database);
    return Number(numAffectedRows ?? 0);
  }

  /**
   * Selects old events that another event follows. The last event of a sandbox stays, since it says what the sandbox
   * has now.
   */
  async #oldEvent(before: Date): Promise<RawBuilder<unknown>> {
    const end = before.getTime() - usageMs;
    const surplus = await this.#lastSurplusEvent();
    // Reads only old events, in the order of the primary key.
    const kept = await this.#database
      .selectFrom("events")
      .select("sequence")
      .where("created_at", ">=", end)
      .orderBy("sequence")
      .limit(1)
      .executeTakeFirst();
    const last = Math.max(surplus, (kept?.sequence ?? Number.MAX_SAFE_INTEGER) - 1);
    return sql`sequence <= ${last} AND until_at IS NOT NULL AND (until_at < ${end} OR sequence <= ${surplus})`;
  }

  /** Selects old deliveries that have ended. */
  async #oldDelivery(before: Date): Promise<RawBuilder<unknown>> {
    const oldest = await this.#database
      .selectFrom("events")
      .select("created_at")
      .where("sequence", ">", await this.#lastSurplusEvent())
      .orderBy("sequence")
      .limit(1)
      .executeTakeFirst();
    const end = Math.max(before.getTime(), oldest?.created_at ?? 0);
    return sql`created_at < ${end} AND status <> 'pending'`;
  }

  /** The sequence of the newest event beyond the number that is kept; 0 or less when there are fewer. */
  async #lastSurplusEvent(): Promise<number> {
    return (await headOf(this.#database)) - this.#maxEvents;
  }
}

/** Opens the rows of a database without a control plane. */
export async function openRowRetention(
  location: DatabaseLocation,
): Promise<{ readonly rows: RowRetention } & AsyncDisposable> {
  const database = await openDatabase(location);
  return { rows: new RowRetention(database), [Symbol.asyncDispose]: () => database.destroy() };
}

/** A sandbox in the state `error` keeps its row: its disks may still boot. One with checkpoints keeps it for them. */
function oldSandbox(before: Date): RawBuilder<unknown> {
  return sql`state = 'stopped' AND COALESCE(ended_at, created_at) < ${before.getTime()}
    AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.sandbox_id = sandboxes.id)`;
}

function oldCheckpoint(before: Date): RawBuilder<unknown> {
  return sql`status = 'failed' AND COALESCE(failed_at, created_at) < ${before.getTime()}`;
}

/** A failed image has no checkpoint. */
function oldImage(before: Date): RawBuilder<unknown> {
  return sql`status = 'failed' AND checkpoint_id IS NULL AND created_at < ${before.getTime()}`;
}
