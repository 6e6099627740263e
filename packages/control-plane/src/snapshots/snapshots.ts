import { randomHex, type SnapshotId } from "@opensandbox/wire/ids.ts";
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
  readonly #serverId: string | undefined;
  readonly #uses = new Map<SnapshotId, number>();

  /** @param serverId this server, when others use the same rows */
  constructor(database: Database, worker: Pick<Worker, "removeSnapshot">, log: Log, serverId?: string) {
    this.#database = database;
    this.#worker = worker;
    this.#log = log;
    this.#serverId = serverId;
  }

  /** Protects a snapshot from removal by any server until disposed, even when it becomes unwanted meanwhile. */
  async use(snapshotId: SnapshotId): Promise<AsyncDisposable> {
    const shared = await this.#shareUse(snapshotId);
    this.#uses.set(snapshotId, (this.#uses.get(snapshotId) ?? 0) + 1);
    return {
      [Symbol.asyncDispose]: async () => {
        const left = (this.#uses.get(snapshotId) ?? 1) - 1;
        if (left === 0) this.#uses.delete(snapshotId);
        else this.#uses.set(snapshotId, left);
        await shared?.[Symbol.asyncDispose]();
      },
    };
  }

  /** The row ends with this server at the latest. */
  async #shareUse(snapshotId: SnapshotId): Promise<AsyncDisposable | undefined> {
    if (this.#serverId === undefined) return undefined;
    const id = randomHex(16);
    const row = { id, snapshot_id: snapshotId, server_id: this.#serverId };
    await this.#database.insertInto("snapshot_uses").values(row).execute();
    return {
      [Symbol.asyncDispose]: async () => {
        try {
          await this.#database.deleteFrom("snapshot_uses").where("id", "=", id).execute();
        } catch (error) {
          const fields = { snapshot: snapshotId, ...describeError(error) };
          this.#log("warn", "a snapshot stays protected until this server ends", fields);
        }
      },
    };
  }

  /** Removes unwanted snapshots. A failed removal is retried by the next call. Never rejects. */
  async removeUnwanted(): Promise<void> {
    try {
      const rows = await this.#database
        .selectFrom("unwanted_snapshots")
        .selectAll()
        .where((row) =>
          row.not(
            row.exists(
              row
                .selectFrom("snapshot_uses")
                .select("id")
                .whereRef("snapshot_uses.snapshot_id", "=", "unwanted_snapshots.snapshot_id"),
            ),
          ),
        )
        .execute();
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
