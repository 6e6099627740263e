import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { type RawBuilder, sql } from "kysely";
import type { Database } from "#database/database.ts";

/**
 * - `local`: only workers have the snapshot.
 * - `uploading`: a worker stores it, until `nextAt` at the latest unless the claim is renewed.
 * - `stored`: the object store has a copy that was read back.
 */
export type UploadState = "local" | "uploading" | "stored";

export interface Upload {
  readonly snapshotId: SnapshotId;
  /** The worker that uploads it. */
  readonly workerId: string;
  readonly state: UploadState;
  /** The object store with the copy. Present when it is stored. */
  readonly store: string | undefined;
  /** Uploads that have failed. */
  readonly attempts: number;
  /** Why the last upload failed. */
  readonly error: string | undefined;
}

/** The rows of uploads. A row exists for each snapshot of a fleet, from before its capture until its removal. */
export class UploadStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async find(snapshotId: SnapshotId): Promise<Upload | undefined> {
    const row = await this.#database
      .selectFrom("snapshot_uploads")
      .selectAll()
      .where("snapshot_id", "=", snapshotId)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { snapshot_id, worker_id: workerId, state, store, attempts, error } = row;
    return {
      snapshotId: snapshot_id as SnapshotId,
      ...{ workerId, state, attempts },
      store: store ?? undefined,
      error: error ?? undefined,
    };
  }

  /**
   * Snapshots of these workers whose upload is due, the longest waiting first: those of hibernated sandboxes and of
   * checkpoints. A capture that is under way is not due.
   */
  async due(
    workerIds: readonly string[],
    { now, limit }: { readonly now: number; readonly limit: number },
  ): Promise<{ readonly snapshotId: SnapshotId; readonly workerId: string }[]> {
    if (workerIds.length === 0) return [];
    const { rows } = await sql<{ id: SnapshotId; worker: string }>`
      SELECT u.snapshot_id AS id, u.worker_id AS worker FROM snapshot_uploads u
      WHERE u.state <> 'stored' AND u.next_at <= ${now} AND u.worker_id IN (${sql.join(workerIds)}) AND ${isWhole}
      ORDER BY u.next_at LIMIT ${limit}`.execute(this.#database);
    return rows.map(({ id, worker }) => ({ snapshotId: id, workerId: worker }));
  }

  /** Snapshots that only this worker has, and that a sandbox or a checkpoint needs. */
  async notStoredOn(workerId: string): Promise<number> {
    const { rows } = await sql<{ count: number }>`
      SELECT count(*) AS count FROM snapshot_uploads u
      WHERE u.state <> 'stored' AND u.worker_id = ${workerId} AND ${isWhole}`.execute(this.#database);
    return rows[0]?.count ?? 0;
  }

  /** Whether the object store or another worker has the snapshot. */
  async isElsewhere(snapshotId: SnapshotId, workerId: string): Promise<boolean> {
    const { rows } = await sql`
      SELECT 1 FROM snapshot_uploads u
      WHERE u.snapshot_id = ${snapshotId} AND ${elsewhere(workerId)}`.execute(this.#database);
    return rows.length > 0;
  }

  /** Hibernated sandboxes whose snapshot neither the object store nor another worker has. */
  async sleepingOnlyOn(workerId: string): Promise<SandboxId[]> {
    const { rows } = await sql<{ id: SandboxId }>`
      SELECT s.id FROM sandboxes s
      JOIN snapshot_copies c ON c.snapshot_id = s.hibernation_snapshot_id AND c.worker_id = ${workerId}
      JOIN snapshot_uploads u ON u.snapshot_id = s.hibernation_snapshot_id
      WHERE s.state = 'hibernated' AND NOT ${elsewhere(workerId)}`.execute(this.#database);
    return rows.map(({ id }) => id);
  }

  /** The newest checkpoint of a sandbox that the object store or another worker has. */
  async lastCheckpoint(sandboxId: SandboxId, workerId: string): Promise<LastCheckpoint | undefined> {
    const { rows } = await sql<{ name: string; snapshot: SnapshotId; at: number }>`
      SELECT c.name, c.snapshot_id AS snapshot, c.created_at AS at FROM checkpoints c
      JOIN snapshot_uploads u ON u.snapshot_id = c.snapshot_id
      WHERE c.sandbox_id = ${sandboxId} AND c.status = 'ready' AND ${elsewhere(workerId)}
      ORDER BY c.created_at DESC LIMIT 1`.execute(this.#database);
    const [last] = rows;
    return last && { name: last.name, snapshotId: last.snapshot, createdAt: new Date(last.at) };
  }

  /** Claims an upload until the given time. False: another server has claimed it, or it is stored. */
  async claim(
    snapshotId: SnapshotId,
    { now, until }: { readonly now: number; readonly until: number },
  ): Promise<boolean> {
    const { numUpdatedRows } = await this.#database
      .updateTable("snapshot_uploads")
      .set({ state: "uploading", next_at: until })
      .where("snapshot_id", "=", snapshotId)
      .where((row) =>
        row.or([row("state", "=", "local"), row.and([row("state", "=", "uploading"), row("next_at", "<=", now)])]),
      )
      .executeTakeFirst();
    return numUpdatedRows > 0n;
  }

  async renew(snapshotId: SnapshotId, until: number): Promise<void> {
    await this.#database
      .updateTable("snapshot_uploads")
      .set({ next_at: until })
      .where("snapshot_id", "=", snapshotId)
      .where("state", "=", "uploading")
      .execute();
  }

  /** Records that the copy was verified. False: the snapshot was removed meanwhile. */
  async finish(
    snapshotId: SnapshotId,
    { store, now }: { readonly store: string; readonly now: number },
  ): Promise<boolean> {
    const { numUpdatedRows } = await this.#database
      .updateTable("snapshot_uploads")
      .set({ state: "stored", store, error: null, stored_at: now })
      .where("snapshot_id", "=", snapshotId)
      .executeTakeFirst();
    return numUpdatedRows > 0n;
  }

  async fail(
    snapshotId: SnapshotId,
    { error, nextAt }: { readonly error: string; readonly nextAt: number },
  ): Promise<void> {
    await this.#database
      .updateTable("snapshot_uploads")
      .set((row) => ({ state: "local", attempts: row("attempts", "+", 1), error, next_at: nextAt }))
      .where("snapshot_id", "=", snapshotId)
      .where("state", "=", "uploading")
      .execute();
  }

  async remove(snapshotId: SnapshotId): Promise<void> {
    await this.#database.deleteFrom("snapshot_uploads").where("snapshot_id", "=", snapshotId).execute();
  }
}

/** The newest stored state of a sandbox. */
export interface LastCheckpoint {
  readonly name: string;
  readonly snapshotId: SnapshotId;
  readonly createdAt: Date;
}

/** The snapshot of upload `u` exists without this worker. */
function elsewhere(workerId: string): RawBuilder<boolean> {
  return sql`(u.state = 'stored' OR EXISTS (
    SELECT 1 FROM snapshot_copies o WHERE o.snapshot_id = u.snapshot_id AND o.worker_id <> ${workerId}))`;
}

/** A row refers to the snapshot of upload `u` as to one that exists. */
const isWhole = sql`(
  EXISTS (SELECT 1 FROM sandboxes s WHERE s.hibernation_snapshot_id = u.snapshot_id AND s.state IN ('hibernated', 'waking'))
  OR EXISTS (SELECT 1 FROM checkpoints c WHERE c.snapshot_id = u.snapshot_id AND c.status = 'ready'))`;
