import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { sql, type RawBuilder } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { SandboxRow } from "#database/tables.ts";
import { discardSnapshot } from "#snapshots/discard-snapshot.ts";
import { activeStates, next, wrongState, type Move, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Sandbox } from "./sandbox.ts";

/** The properties of a sandbox that may change, besides its state. A change to `undefined` clears the column. */
export type Changes = Partial<Omit<Sandbox, "id" | "organizationId" | "state" | "createdAt">>;

const fromRow = rowReader<Sandbox>({
  networkEnabled: "boolean",
  egress: "json",
  envs: "json",
  metadata: "json",
  ephemeral: "boolean",
  hidden: "boolean",
  createdAt: "date",
  startedAt: "date",
  expiresAt: "date",
  endedAt: "date",
  bootsOnUse: "boolean",
  tags: "json",
  tagsUpdatedAt: "date",
  scalingLocked: "boolean",
  autoscale: "json",
});

/** The rows of sandboxes. */
export class SandboxStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds the row unless the organization has `limit` active sandboxes or the idempotency key has been used. */
  async add(sandbox: Sandbox, limit: number): Promise<"added" | "limit reached" | "key used"> {
    const row = rowOf(sandbox);
    const columns = Object.entries(row);
    // One statement counts and inserts, so that concurrent creates cannot exceed the limit together.
    const { numAffectedRows } = await sql`
      INSERT INTO sandboxes (${sql.join(columns.map(([column]) => sql.ref(column)))})
      SELECT ${sql.join(columns.map(([, value]) => sql.val(value)))}
      WHERE ${this.#activeOf(sandbox.organizationId)} < ${limit}
      ON CONFLICT (organization_id, idempotency_key) DO NOTHING`.execute(this.#database);
    if (numAffectedRows === 1n) return "added";
    const { organizationId, idempotencyKey } = sandbox;
    const used = idempotencyKey !== undefined && (await this.findByKey(organizationId, idempotencyKey)) !== undefined;
    return used ? "key used" : "limit reached";
  }

  async remove(id: SandboxId): Promise<void> {
    await this.#database.deleteFrom("sandboxes").where("id", "=", id).execute();
  }

  /** @throws `not_found`, also when the sandbox belongs to another organization or is hidden */
  async get(organizationId: string, id: SandboxId): Promise<Sandbox> {
    const sandbox = await this.find(id);
    if (sandbox?.organizationId === organizationId && !sandbox.hidden) return sandbox;
    throw notFound(id);
  }

  async find(id: SandboxId): Promise<Sandbox | undefined> {
    const row = await this.#database.selectFrom("sandboxes").selectAll().where("id", "=", id).executeTakeFirst();
    return row && fromRow(row);
  }

  async findByKey(organizationId: string, idempotencyKey: string): Promise<Sandbox | undefined> {
    const row = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("idempotency_key", "=", idempotencyKey)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** The sandboxes that are visible to users, newest first. */
  async list(organizationId: string, states: readonly SandboxState[], limit: number): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("state", "in", states)
      .where("hidden", "=", 0)
      .orderBy("created_at", "desc")
      .orderBy("id")
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  /** Of all organizations: sandboxes with a port of this host that are not stopped. */
  async listForwarded(): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("forwarded_port", "is not", null)
      .where("state", "<>", "stopped")
      .execute();
    return rows.map(fromRow);
  }

  /** Sandboxes of all organizations with a machine or disks on a worker, and those that end with their server. */
  async listHeld(): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where((row) =>
        row.or([row("state", "in", [...activeStates, "error"]), row("hidden", "=", 1), row("ephemeral", "=", 1)]),
      )
      .where("state", "<>", "stopped")
      .execute();
    return rows.map(fromRow);
  }

  /**
   * Makes one move of the lifecycle and changes further columns with it. A hibernation snapshot that the sandbox stops
   * referring to becomes unwanted in the same transaction.
   * @throws `wrong_state` when the move is not allowed or another process moved the sandbox first
   * @throws `quota_exceeded` when the organization has `limit` active sandboxes
   */
  async move(sandbox: Sandbox, move: Move, changes: Changes = {}, limit?: number): Promise<Sandbox> {
    const state = next(sandbox.state, move);
    const row = await this.#database.transaction().execute(async (transaction) => {
      const moved = await transaction
        .updateTable("sandboxes")
        .set({ state, ...rowOf(changes) } as Partial<SandboxRow>)
        .where("id", "=", sandbox.id)
        .where("state", "=", sandbox.state)
        .where("generation", "=", sandbox.generation)
        .$if(limit !== undefined, (query) => query.where(this.#activeOf(sandbox.organizationId), "<", limit ?? 0))
        .returningAll()
        .executeTakeFirst();
      const before = sandbox.hibernationSnapshotId;
      if (moved !== undefined && before !== undefined && moved.hibernation_snapshot_id !== before) {
        await discardSnapshot(transaction, before);
      }
      return moved;
    });
    if (row !== undefined) return fromRow(row);
    const found = await this.find(sandbox.id);
    if (found === undefined) throw notFound(sandbox.id);
    if (found.state === sandbox.state && found.generation === sandbox.generation) throw limitReached(limit ?? 0);
    throw wrongState(
      found.state,
      [sandbox.state],
      `cannot ${move} sandbox ${sandbox.id}: its state is now ${found.state}`,
    );
  }

  /** Changes columns without a move. */
  async update(id: SandboxId, changes: Changes): Promise<Sandbox> {
    const row = await this.#database
      .updateTable("sandboxes")
      .set(rowOf(changes) as Partial<SandboxRow>)
      .where("id", "=", id)
      .returningAll()
      .executeTakeFirst();
    if (row === undefined) throw notFound(id);
    return fromRow(row);
  }

  async setExpiresAt(id: SandboxId, expiresAt: Date): Promise<void> {
    await this.#database
      .updateTable("sandboxes")
      .set({ expires_at: expiresAt.getTime() })
      .where("id", "=", id)
      .where("state", "=", "running")
      .execute();
  }

  #activeOf(organizationId: string): RawBuilder<number> {
    return sql<number>`(SELECT count(*) FROM sandboxes WHERE organization_id = ${organizationId}
      AND state IN (${sql.join(activeStates)}))`;
  }
}

export function limitReached(limit: number): SandboxError<"quota_exceeded"> {
  const message = `concurrent sandbox limit reached (${limit}): delete or hibernate one first`;
  return new SandboxError("quota_exceeded", message);
}

function notFound(id: SandboxId): SandboxError<"not_found"> {
  return new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
}
