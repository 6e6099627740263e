import { randomUUID } from "node:crypto";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import { inTransaction } from "#database/transaction.ts";
import { checkpointNotFound } from "./checkpoint-store.ts";
import type { Patch } from "./checkpoint.ts";

const fromRow = rowReader<Patch>({ createdAt: "date" });

/** Stores the patches of checkpoints. */
export class PatchStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async add(checkpointId: string, patch: Pick<Patch, "script" | "description" | "createdAt">): Promise<Patch> {
    return await inTransaction(this.#database, async (transaction) => {
      // The checkpoint counts: the number of a deleted patch is not reused, since forks may have run past it.
      const counted = await transaction
        .updateTable("checkpoints")
        .set(({ eb }) => ({ patch_sequence: eb("patch_sequence", "+", 1) }))
        .where("id", "=", checkpointId)
        .returning("patch_sequence")
        .executeTakeFirst();
      if (counted === undefined) throw checkpointNotFound(checkpointId);
      const { script, description, createdAt } = patch;
      const row = rowOf({
        ...{ id: randomUUID(), checkpointId, sequence: counted.patch_sequence },
        ...{ script, description, createdAt },
      });
      await transaction.insertInto("patches").values(row).execute();
      return fromRow(row);
    });
  }

  /** The patches after a sequence number, in the order in which they are applied. */
  async list(checkpointId: string, after = 0): Promise<Patch[]> {
    const rows = await this.#database
      .selectFrom("patches")
      .selectAll()
      .where("checkpoint_id", "=", checkpointId)
      .where("sequence", ">", after)
      .orderBy("sequence")
      .execute();
    return rows.map(fromRow);
  }

  /** Returns whether the patch existed. */
  async remove(checkpointId: string, id: string): Promise<boolean> {
    const { numDeletedRows } = await this.#database
      .deleteFrom("patches")
      .where("checkpoint_id", "=", checkpointId)
      .where("id", "=", id)
      .executeTakeFirst();
    return numDeletedRows === 1n;
  }
}
