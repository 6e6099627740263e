import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import type { SandboxRow } from "#database/tables.ts";
import { activeStates, next, type Move } from "./sandbox-lifecycle.ts";
import type { Sandbox } from "./sandbox.ts";

/** What a move may change beside the state. */
export interface Changes {
  readonly startedAt?: Date;
  readonly expiresAt?: Date | undefined;
  readonly endedAt?: Date;
  readonly endReason?: string;
  /** Forgets the key of a create that was never answered, so that it can be asked again. */
  readonly idempotencyKey?: undefined;
}

/** The rows of sandboxes. */
export class SandboxStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds the row unless the organization has `limit` active sandboxes or the idempotency key has been used. */
  async add(sandbox: Sandbox, limit: number): Promise<"added" | "limit reached" | "key used"> {
    const row = toRow(sandbox);
    const columns = Object.keys(row) as (keyof SandboxRow)[];
    // One statement counts and inserts, so that creates at the same moment cannot pass the limit together.
    const { numAffectedRows } = await sql`
      INSERT INTO sandboxes (${sql.join(columns.map((column) => sql.ref(column)))})
      SELECT ${sql.join(columns.map((column) => sql.val(row[column])))}
      WHERE (SELECT count(*) FROM sandboxes WHERE organization_id = ${row.organization_id}
             AND state IN (${sql.join(activeStates)})) < ${limit}
      ON CONFLICT (organization_id, idempotency_key) DO NOTHING`.execute(this.#database);
    if (numAffectedRows === 1n) return "added";
    const { organizationId, idempotencyKey } = sandbox;
    const used = idempotencyKey !== undefined && (await this.findByKey(organizationId, idempotencyKey)) !== undefined;
    return used ? "key used" : "limit reached";
  }

  async remove(id: SandboxId): Promise<void> {
    await this.#database.deleteFrom("sandboxes").where("id", "=", id).execute();
  }

  /** The sandbox, or `not_found`: also when it belongs to another organization. */
  async get(organizationId: string, id: SandboxId): Promise<Sandbox> {
    const sandbox = await this.find(id);
    if (sandbox?.organizationId === organizationId) return sandbox;
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
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

  /** The newest first. */
  async listRunning(organizationId: string, limit: number): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("state", "=", "running")
      .orderBy("created_at", "desc")
      .orderBy("id")
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  async listActive(): Promise<Sandbox[]> {
    const rows = await this.#database.selectFrom("sandboxes").selectAll().where("state", "in", activeStates).execute();
    return rows.map(fromRow);
  }

  /** One move of the lifecycle; `wrong_state` if it is not allowed or another process was quicker. */
  async move(sandbox: Sandbox, move: Move, changes: Changes = {}): Promise<Sandbox> {
    const state = next(sandbox.state, move);
    const row = await this.#database
      .updateTable("sandboxes")
      .set({ state, ...columnsOf(changes) })
      .where("id", "=", sandbox.id)
      .where("state", "=", sandbox.state)
      .where("generation", "=", sandbox.generation)
      .returningAll()
      .executeTakeFirst();
    if (row !== undefined) return fromRow(row);
    const found = await this.find(sandbox.id);
    if (found === undefined || found.state === sandbox.state) {
      throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id: sandbox.id });
    }
    next(found.state, move);
    return this.move(found, move, changes);
  }

  async setIdleTimeout(id: SandboxId, idleTimeoutSeconds: number, expiresAt: Date | undefined): Promise<void> {
    await this.#database
      .updateTable("sandboxes")
      .set({ idle_timeout_seconds: idleTimeoutSeconds, ...columnsOf({ expiresAt }) })
      .where("id", "=", id)
      .execute();
  }

  async setExpiresAt(id: SandboxId, expiresAt: Date): Promise<void> {
    await this.#database
      .updateTable("sandboxes")
      .set(columnsOf({ expiresAt }))
      .where("id", "=", id)
      .where("state", "=", "running")
      .execute();
  }
}

function columnsOf(changes: Changes): Partial<SandboxRow> {
  return {
    ...("startedAt" in changes ? { started_at: timeOf(changes.startedAt) } : {}),
    ...("expiresAt" in changes ? { expires_at: timeOf(changes.expiresAt) } : {}),
    ...("endedAt" in changes ? { ended_at: timeOf(changes.endedAt) } : {}),
    ...("endReason" in changes ? { end_reason: changes.endReason ?? null } : {}),
    ...("idempotencyKey" in changes ? { idempotency_key: null } : {}),
  };
}

function toRow(sandbox: Sandbox): SandboxRow {
  return {
    id: sandbox.id,
    organization_id: sandbox.organizationId,
    state: sandbox.state,
    generation: sandbox.generation,
    worker_id: sandbox.workerId,
    image: sandbox.image,
    vcpus: sandbox.vcpus,
    memory_mib: sandbox.memoryMib,
    workspace_mib: sandbox.workspaceMib,
    network_enabled: sandbox.networkEnabled ? 1 : 0,
    envs: JSON.stringify(sandbox.envs),
    metadata: JSON.stringify(sandbox.metadata),
    alias: sandbox.alias,
    idle_timeout_seconds: sandbox.idleTimeoutSeconds,
    expires_at: timeOf(sandbox.expiresAt),
    created_at: sandbox.createdAt.getTime(),
    started_at: timeOf(sandbox.startedAt),
    ended_at: timeOf(sandbox.endedAt),
    end_reason: sandbox.endReason ?? null,
    idempotency_key: sandbox.idempotencyKey ?? null,
  };
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
    envs: JSON.parse(row.envs) as Record<string, string>,
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    alias: row.alias,
    idleTimeoutSeconds: row.idle_timeout_seconds,
    idempotencyKey: row.idempotency_key ?? undefined,
    createdAt: new Date(row.created_at),
    startedAt: dateOf(row.started_at),
    expiresAt: dateOf(row.expires_at),
    endedAt: dateOf(row.ended_at),
    endReason: row.end_reason ?? undefined,
  };
}

function timeOf(date: Date | undefined): number | null {
  return date?.getTime() ?? null;
}

function dateOf(time: number | null): Date | undefined {
  return time === null ? undefined : new Date(time);
}
