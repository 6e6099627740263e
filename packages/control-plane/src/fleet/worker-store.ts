import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import type { WorkerStatus } from "@opensandbox/wire/worker/status.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";

export interface StoredWorker {
  readonly id: string;
  readonly url: string;
  readonly description: WorkerDescription;
}

/** What a server has heard of a worker. */
export interface Heard {
  /** Its last answer. Undefined: none yet. */
  readonly status: WorkerStatus | undefined;
  /** Whether it answers and its sandboxes are reconciled with the rows. */
  readonly isUp: boolean;
  /** When it last answered, in milliseconds since 1970. */
  readonly seenAt: number | undefined;
}

export interface ListedWorker extends StoredWorker, Heard {
  readonly isCordoned: boolean;
  readonly isDraining: boolean;
}

/** The rows of workers, and of the places of snapshots. */
export class WorkerStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async list(): Promise<ListedWorker[]> {
    const rows = await this.#database.selectFrom("workers").selectAll().orderBy("id").execute();
    return rows.map(({ id, url, description, cordoned, draining, status, up, seen_at: seenAt }) => ({
      ...{
        id,
        url,
        isCordoned: cordoned === 1,
        isDraining: draining === 1,
        isUp: up === 1,
        seenAt: seenAt ?? undefined,
      },
      description: JSON.parse(description) as WorkerDescription,
      status: status === null ? undefined : (JSON.parse(status) as WorkerStatus),
    }));
  }

  /** Records what the server on duty has heard of a worker, for the other servers. */
  async publish(id: string, { status, isUp, seenAt }: Heard): Promise<void> {
    await this.#database
      .updateTable("workers")
      .set({ up: isUp ? 1 : 0, seen_at: seenAt ?? null, status: status === undefined ? null : JSON.stringify(status) })
      .where("id", "=", id)
      .execute();
  }

  /** Adds a worker, or stores its new address. */
  async put({ id, url, description }: StoredWorker, joinedAt: Date): Promise<void> {
    const changes = { url, description: JSON.stringify(description) };
    await this.#database
      .insertInto("workers")
      .values({ id, ...changes, cordoned: 0, joined_at: joinedAt.getTime() })
      .onConflict((conflict) => conflict.column("id").doUpdateSet(changes))
      .execute();
  }

  async describe(id: string, description: WorkerDescription): Promise<void> {
    await this.#database
      .updateTable("workers")
      .set({ description: JSON.stringify(description) })
      .where("id", "=", id)
      .execute();
  }

  async setUse(
    id: string,
    { isCordoned, isDraining }: { readonly isCordoned: boolean; readonly isDraining: boolean },
  ): Promise<void> {
    const use = { cordoned: isCordoned ? 1 : 0, draining: isDraining ? 1 : 0 };
    await this.#database.updateTable("workers").set(use).where("id", "=", id).execute();
  }

  /** Removes a worker and the records of its copies. Uploads that it had to make pass to another worker with a copy. */
  async remove(id: string): Promise<void> {
    await this.#database.transaction().execute(async (transaction) => {
      await transaction.deleteFrom("snapshot_copies").where("worker_id", "=", id).execute();
      await sql`
        UPDATE snapshot_uploads SET state = 'local', next_at = 0, worker_id =
          (SELECT min(c.worker_id) FROM snapshot_copies c WHERE c.snapshot_id = snapshot_uploads.snapshot_id)
        WHERE worker_id = ${id} AND state <> 'stored' AND EXISTS
          (SELECT 1 FROM snapshot_copies c WHERE c.snapshot_id = snapshot_uploads.snapshot_id)`.execute(transaction);
      await transaction.deleteFrom("workers").where("id", "=", id).execute();
    });
  }

  /** Snapshots that the object store has too. */
  async storedCopiesOn(id: string, limit: number): Promise<SnapshotId[]> {
    const rows = await this.#database
      .selectFrom("snapshot_copies")
      .innerJoin("snapshot_uploads", "snapshot_uploads.snapshot_id", "snapshot_copies.snapshot_id")
      .select("snapshot_copies.snapshot_id")
      .where("snapshot_copies.worker_id", "=", id)
      .where("snapshot_uploads.state", "=", "stored")
      .orderBy("snapshot_uploads.stored_at")
      .limit(limit)
      .execute();
    return rows.map((row) => row.snapshot_id as SnapshotId);
  }

  /** Workers that have the snapshot, or have begun to make it. */
  async workersWith(snapshotId: SnapshotId): Promise<string[]> {
    const rows = await this.#database
      .selectFrom("snapshot_copies")
      .select("worker_id")
      .where("snapshot_id", "=", snapshotId)
      .orderBy("worker_id")
      .execute();
    return rows.map((row) => row.worker_id);
  }

  /** Records that a worker has a snapshot, or is about to make or fetch it. The first one is to upload it. */
  async addCopy(snapshotId: SnapshotId, workerId: string): Promise<void> {
    const copy = { snapshot_id: snapshotId, worker_id: workerId };
    await this.#database.transaction().execute(async (transaction) => {
      await transaction
        .insertInto("snapshot_copies")
        .values(copy)
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      await transaction
        .insertInto("snapshot_uploads")
        .values({ ...copy, state: "local" })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
    });
  }

  async removeCopy(snapshotId: SnapshotId, workerId: string): Promise<void> {
    await this.#database
      .deleteFrom("snapshot_copies")
      .where("snapshot_id", "=", snapshotId)
      .where("worker_id", "=", workerId)
      .execute();
  }
}
