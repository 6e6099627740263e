import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Database } from "#database/database.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";

/**
 * Removes unreferenced snapshots. The transaction that drops the last reference records the snapshot as unwanted, so that
 * neither a crash nor a failure of the worker leaks it.
 */
export class Snapshots {
  readonly #database: Database;
  readonly #worker: Pick<Worker, "removeSnapshot">;
  readonly #log: Log;
  readonly #uses = new Map<SnapshotId, number>();

  constructor(database: Database, worker: Pick<Worker, "removeSnapshot">, log: Log) {
    this.#database = database;
    this.#worker = worker;
    this.#log = log;
  }

  /** Protects a snapshot from removal until disposed, even when it becomes unwanted meanwhile. */
  use(snapshotId: SnapshotId): Disposable {
    this.#uses.set(snapshotId, (this.#uses.get(snapshotId) ?? 0) + 1);
    return {
      [Symbol.dispose]: () => {
        const left = (this.#uses.get(snapshotId) ?? 1) - 1;
        if (left === 0) this.#uses.delete(snapshotId);
        else this.#uses.set(snapshotId, left);
      },
    };
  }

  /** Removes unwanted snapshots. A failed removal is retried by the next call. Never rejects. */
  async removeUnwanted(): Promise<void> {
    try {
      const rows = await this.#database.selectFrom("unwanted_snapshots").selectAll().execute();
      const ids = rows.map(({ snapshot_id: id }) => id as SnapshotId).filter((id) => !this.#uses.has(id));
      await Promise.all(ids.map((id) => this.#remove(id)));
    } catch (error) {
      this.#log("error", "cannot look up unwanted snapshots", describeError(error));
    }
  }

  async #remove(id: SnapshotId): Promise<void> {
    try {
      await this.#worker.removeSnapshot(id);
      await this.#database.deleteFrom("unwanted_snapshots").where("snapshot_id", "=", id).execute();
    } catch (error) {
      this.#log("warn", "cannot remove a snapshot: the next round tries again", {
        snapshot: id,
        ...describeError(error),
      });
    }
  }
}
