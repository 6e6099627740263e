import type { EgressRules } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { sql, type RawBuilder } from "kysely";
import type { Database } from "#database/database.ts";
import { dateOf, mapOf, rowOf } from "#database/row-of.ts";
import type { SandboxRow } from "#database/tables.ts";
import { discardSnapshot } from "#snapshots/discard-snapshot.ts";
import { activeStates, next, wrongState, type Move, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Autoscale, Sandbox } from "./sandbox.ts";

/** What may change in the life of a sandbox, beside its state. A change to `undefined` forgets. */
export type Changes = Partial<Omit<Sandbox, "id" | "organizationId" | "state" | "createdAt">>;

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
    // One statement counts and inserts, so that creates at the same moment cannot pass the limit together.
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

  /** The sandbox, or `not_found`: also when it belongs to another organization or is not for users. */
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

  /** Those that users see, the newest first. */
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

  /** Of all organizations, those that have asked for a port of this host and have not been stopped. */
  async listForwarded(): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("forwarded_port", "is not", null)
      .where("state", "<>", "stopped")
      .execute();
    return rows.map(fromRow);
  }

  /** Of all organizations, those of which a worker has something or may have, and those that end with their server. */
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
   * One move of the lifecycle. `wrong_state` if it is not allowed or another process was quicker; with a limit,
   * `quota_exceeded` if the organization has that many active sandboxes. A hibernation snapshot that the sandbox
   * refers to no more is unwanted from that moment on.
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
    throw wrongState(found.state, [sandbox.state], `cannot ${move} sandbox ${sandbox.id}: it is ${found.state} now`);
  }

  /** Changes what has nothing to do with its state. */
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

function fromRow(row: SandboxRow): Sandbox {
  return {
    id: row.id as SandboxId,
    organizationId: row.organization_id,
    state: row.state,
    generation: row.generation,
    workerId: row.worker_id,
    image: row.image,
    vcpus: row.vcpus,
    memoryMib: row.memory_mib,
    workspaceMib: row.workspace_mib,
    networkEnabled: row.network_enabled !== 0,
    egress: row.egress === null ? undefined : (JSON.parse(row.egress) as EgressRules),
    previewTokenHash: row.preview_token_hash ?? undefined,
    forwardedPort: row.forwarded_port ?? undefined,
    hostPort: row.host_port ?? undefined,
    envs: mapOf(row.envs),
    metadata: mapOf(row.metadata),
    alias: row.alias,
    idleTimeoutSeconds: row.idle_timeout_seconds,
    ephemeral: row.ephemeral !== 0,
    hidden: row.hidden !== 0,
    idempotencyKey: row.idempotency_key ?? undefined,
    createdAt: new Date(row.created_at),
    startedAt: dateOf(row.started_at),
    expiresAt: dateOf(row.expires_at),
    endedAt: dateOf(row.ended_at),
    endReason: row.end_reason ?? undefined,
    fromCheckpointId: row.from_checkpoint_id ?? undefined,
    lastPatchSequence: row.last_patch_sequence,
    patchError: row.patch_error ?? undefined,
    hibernationSnapshotId: (row.hibernation_snapshot_id ?? undefined) as SnapshotId | undefined,
    hibernationSizeBytes: row.hibernation_size_bytes ?? undefined,
    restoredFrom: row.restored_from ?? undefined,
    restoredBecause: row.restored_because ?? undefined,
    bootsOnUse: row.boots_on_use !== 0,
    tags: mapOf(row.tags),
    tagsUpdatedAt: dateOf(row.tags_updated_at),
    scalingLocked: row.scaling_locked !== 0,
    autoscale: row.autoscale === null ? undefined : (JSON.parse(row.autoscale) as Autoscale),
  };
}
