import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { sql, type Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { CheckpointRow, Tables } from "#database/tables.ts";
import type { EventStore } from "#events/event-store.ts";
import { isPostgres } from "#database/postgres/postgres.ts";
import { behindLock, inTransaction, lockOrganization } from "#database/transaction.ts";
import { discardSnapshot } from "#snapshots/discard-snapshot.ts";
import type { Checkpoint, CheckpointKind } from "./checkpoint.ts";

/** How many checkpoints of its kind a sandbox may have. */
export interface CheckpointLimit {
  readonly count: number;
  /** Only checkpoints in progress count: the oldest ready ones are deleted when this one is ready. */
  readonly replaces: boolean;
}

const fromRow = rowReader<Checkpoint>({
  promoteToFull: "boolean",
  isPublic: "boolean",
  hidden: "boolean",
  networkEnabled: "boolean",
  egress: "json",
  envs: "json",
  metadata: "json",
  createdAt: "date",
  failedAt: "date",
  secretStores: "json",
});

/** The rows of checkpoints. Removing a row also drops its reference to the snapshot. */
export class CheckpointStore {
  readonly #database: Database;
  readonly #events: EventStore;

  constructor(database: Database, events: EventStore) {
    this.#database = database;
    this.#events = events;
  }

  /** Adds a checkpoint unless its name is used or the limit is reached. Failed checkpoints neither count nor keep their name. */
  async add(checkpoint: Checkpoint, limit?: CheckpointLimit): Promise<"added" | "limit reached" | "name used"> {
    const columns = Object.entries({ ...rowOf(checkpoint), patch_sequence: 0 });
    const counted = limit?.replaces ? ["processing"] : ["processing", "ready"];
    // One statement counts and inserts, so that concurrent creates cannot exceed the limit together.
    const insert = sql`
      INSERT INTO checkpoints (${sql.join(columns.map(([column]) => sql.ref(column)))})
      SELECT ${sql.join(columns.map(([, value]) => sql.val(value)))}
      WHERE (SELECT count(*) FROM checkpoints WHERE sandbox_id = ${checkpoint.sandboxId} AND kind = ${checkpoint.kind}
             AND status IN (${sql.join(counted)})) < ${limit?.count ?? Number.MAX_SAFE_INTEGER}
      ON CONFLICT DO NOTHING`;
    const { numAffectedRows } = await behindLock(
      this.#database,
      (transaction) => lockOrganization(transaction, checkpoint.organizationId),
      (database) => insert.execute(database),
    );
    if (numAffectedRows === 1n) return "added";
    const named = await this.#database
      .selectFrom("checkpoints")
      .select("id")
      .where("sandbox_id", "=", checkpoint.sandboxId)
      .where("name", "=", checkpoint.name)
      .where("status", "<>", "failed")
      .executeTakeFirst();
    return named === undefined ? "limit reached" : "name used";
  }

  /** Adds another checkpoint of the same snapshot. False: the original is gone or not ready. */
  async copy(id: string, copy: Pick<Checkpoint, "id" | "name" | "createdAt" | "workerId">): Promise<boolean> {
    return await inTransaction(this.#database, async (transaction) => {
      const row = await transaction
        .selectFrom("checkpoints")
        .selectAll()
        .where("id", "=", id)
        .where("status", "=", "ready")
        // A removal at the same time waits, and then finds the copy's reference to the snapshot.
        .$if(isPostgres(transaction), (query) => query.forShare())
        .executeTakeFirst();
      if (row === undefined) return false;
      const own = { ...rowOf(copy), patch_sequence: 0, is_public: 0 };
      await transaction
        .insertInto("checkpoints")
        .values({ ...row, ...own })
        .execute();
      return true;
    });
  }

  async find(id: string): Promise<Checkpoint | undefined> {
    const row = await this.#database.selectFrom("checkpoints").selectAll().where("id", "=", id).executeTakeFirst();
    return row && fromRow(row);
  }

  /** @throws `not_found`, also when the checkpoint belongs to another organization */
  async get(organizationId: string, id: string): Promise<Checkpoint> {
    const checkpoint = await this.find(id);
    if (checkpoint?.organizationId === organizationId) return checkpoint;
    throw checkpointNotFound(id);
  }

  /** The visible checkpoints of a sandbox, oldest first. */
  async listOf(organizationId: string, sandboxId: SandboxId): Promise<Checkpoint[]> {
    const rows = await this.#database
      .selectFrom("checkpoints")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("sandbox_id", "=", sandboxId)
      .where("hidden", "=", 0)
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(fromRow);
  }

  /** The visible checkpoints of all sandboxes of an organization, deleted sandboxes included, newest first. */
  async list(organizationId: string, limit: number): Promise<Checkpoint[]> {
    const rows = await this.#database
      .selectFrom("checkpoints")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("hidden", "=", 0)
      .orderBy("created_at", "desc")
      .orderBy("id")
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  async listProcessing(): Promise<Checkpoint[]> {
    const rows = await this.#database
      .selectFrom("checkpoints")
      .selectAll()
      .where("status", "=", "processing")
      .execute();
    return rows.map(fromRow);
  }

  /** Checkpoints that were made for images and templates and that none of them refers to. */
  async listUnnamed(): Promise<Checkpoint[]> {
    const rows = await this.#database
      .selectFrom("checkpoints")
      .selectAll()
      .where("hidden", "=", 1)
      .where((row) =>
        row.not(
          row.exists(
            row.selectFrom("images").select("images.id").whereRef("images.checkpoint_id", "=", "checkpoints.id"),
          ),
        ),
      )
      .where((row) =>
        row.not(
          row.exists(
            row
              .selectFrom("template_builds")
              .select("template_builds.id")
              .whereRef("template_builds.checkpoint_id", "=", "checkpoints.id"),
          ),
        ),
      )
      .execute();
    return rows.map(fromRow);
  }

  /** Marks a checkpoint `ready` and deletes the oldest ready ones of its kind beyond `keep`. False: it was deleted meanwhile. */
  async finish(checkpoint: Checkpoint, sizeBytes: number, keep?: number): Promise<boolean> {
    return this.#events.transaction(async (transaction, recorder) => {
      const { id, sandboxId } = checkpoint;
      const finished = await setStatus(transaction, checkpoint, { status: "ready", size_bytes: sizeBytes });
      if (!finished) await discardSnapshot(transaction, checkpoint.snapshotId);
      else if (keep !== undefined) await dropOldest(transaction, checkpoint, keep);
      if (finished) {
        await recorder.happened(sandboxId, { type: "sandbox.checkpoint.created", data: { checkpointId: id } });
      }
      return finished;
    });
  }

  /** Marks a checkpoint `failed` and its snapshot unwanted. */
  async fail(checkpoint: Checkpoint, error: string, failedAt: Date): Promise<void> {
    await inTransaction(this.#database, async (transaction) => {
      // A failed checkpoint refers to no snapshot, so that the snapshot counts as unreferenced.
      const changes = { status: "failed", error, failed_at: failedAt.getTime(), snapshot_id: "" } as const;
      await setStatus(transaction, checkpoint, changes);
      await discardSnapshot(transaction, checkpoint.snapshotId);
    });
  }

  async setPublic(id: string, isPublic: boolean): Promise<Checkpoint> {
    const row = await this.#database
      .updateTable("checkpoints")
      .set({ is_public: isPublic ? 1 : 0 })
      .where("id", "=", id)
      .returningAll()
      .executeTakeFirst();
    if (row === undefined) throw checkpointNotFound(id);
    return fromRow(row);
  }

  /** Removes a checkpoint and its patches. */
  async remove(checkpoint: Pick<Checkpoint, "id" | "snapshotId">): Promise<void> {
    await inTransaction(this.#database, (transaction) => dropCheckpoint(transaction, checkpoint));
  }
}

export function checkpointNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "checkpoint not found", { resource: "checkpoint", id });
}

async function setStatus(
  transaction: Transaction<Tables>,
  { id }: Checkpoint,
  changes: Partial<CheckpointRow>,
): Promise<boolean> {
  const { numUpdatedRows } = await transaction
    .updateTable("checkpoints")
    .set(changes)
    .where("id", "=", id)
    .where("status", "=", "processing")
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}

async function dropOldest(
  transaction: Transaction<Tables>,
  { sandboxId, kind }: { readonly sandboxId: SandboxId; readonly kind: CheckpointKind },
  keep: number,
): Promise<void> {
  const rows = await transaction
    .selectFrom("checkpoints")
    .select(["id", "snapshot_id"])
    .where("sandbox_id", "=", sandboxId)
    .where("kind", "=", kind)
    .where("status", "=", "ready")
    .orderBy("created_at", "desc")
    .orderBy("id")
    .execute();
  for (const { id, snapshot_id: snapshotId } of rows.slice(keep)) {
    await dropCheckpoint(transaction, { id, snapshotId: snapshotId as SnapshotId });
  }
}

/** Removes a checkpoint with its patches, and its reference to the snapshot. */
export async function dropCheckpoint(
  transaction: Transaction<Tables>,
  { id, snapshotId }: Pick<Checkpoint, "id" | "snapshotId">,
): Promise<void> {
  await transaction.deleteFrom("patches").where("checkpoint_id", "=", id).execute();
  await transaction.deleteFrom("checkpoints").where("id", "=", id).execute();
  if (snapshotId !== "") await discardSnapshot(transaction, snapshotId);
}
