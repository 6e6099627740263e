import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { OwnedFiles } from "@opensandbox/wire/worker/worker.ts";
import { sql, type RawBuilder, type Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { ChangeFacts, EventStore } from "#events/event-store.ts";
import { behindLock, lockName, lockOrganization } from "#database/transaction.ts";
import type { SandboxRow, Tables } from "#database/tables.ts";
import { discardSnapshot } from "#snapshots/discard-snapshot.ts";
import { activeStates, next, wrongState, type Move, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Limits } from "#lifecycle/limits.ts";
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
  deleteAt: "date",
  endedAt: "date",
  bootsOnUse: "boolean",
  tags: "json",
  tagsUpdatedAt: "date",
  scalingLocked: "boolean",
  autoscale: "json",
  secretStores: "json",
});

/** Which sandboxes a list has, besides their states. Absent: all of them. */
export interface SandboxSelection {
  /** The last sandbox of the previous page. */
  readonly after?: Pick<Sandbox, "id" | "createdAt"> | undefined;
  readonly alias?: string | undefined;
  /** Without a value: sandboxes that have the key. */
  readonly tag?: { readonly key: string; readonly value?: string | undefined } | undefined;
}

/**
 * Whether the JSON of a sandbox's tags has this one. An entry begins after a brace or a comma, and quotes within texts are
 * escaped, so only an entry of this key can match.
 */
function hasTag({ key, value }: NonNullable<SandboxSelection["tag"]>): RawBuilder<boolean> {
  const entry = `${JSON.stringify(key)}:${value === undefined ? "" : JSON.stringify(value)}`;
  // `replace` compares bytes in both databases, unlike `like`.
  return sql<boolean>`(replace(tags, ${`{${entry}`}, '') <> tags OR replace(tags, ${`,${entry}`}, '') <> tags)`;
}

/** Further facts about a move. */
export interface MoveOptions extends ChangeFacts {
  /** The move is refused when it would exceed one of them. */
  readonly limits?: Limits | undefined;
  /** The move is refused when the idle deadline in the row is later than this. */
  readonly idleAt?: Date | undefined;
}

/** The rows of sandboxes. Every change of a sandbox's lifecycle or size records its event in the same transaction. */
export class SandboxStore {
  readonly #database: Database;
  readonly #events: EventStore;

  constructor(database: Database, events: EventStore) {
    this.#database = database;
    this.#events = events;
  }

  /**
   * Adds the row unless the idempotency key has been used.
   * @param parentId the sandbox that it is a fork of, for its event
   * @throws `quota_exceeded` or `no_capacity` when a limit would be exceeded
   */
  async add(sandbox: Sandbox, limits: Limits, parentId?: SandboxId): Promise<"added" | "key used"> {
    const row = rowOf(sandbox);
    const columns = Object.entries(row);
    const added = await this.#events.transaction(async (transaction, recorder) => {
      await lockLimits(transaction, limits, sandbox.organizationId);
      // One statement counts and inserts, so that concurrent creates cannot exceed a limit together.
      const { numAffectedRows } = await sql`
        INSERT INTO sandboxes (${sql.join(columns.map(([column]) => sql.ref(column)))})
        SELECT ${sql.join(columns.map(([, value]) => sql.val(value)))}
        WHERE ${isWithin(limits, sandbox)}
        ON CONFLICT (organization_id, idempotency_key) DO NOTHING`.execute(transaction);
      if (numAffectedRows !== 1n) return false;
      await recorder.added(row, parentId);
      return true;
    });
    if (added) return "added";
    const { organizationId, idempotencyKey } = sandbox;
    const used = idempotencyKey !== undefined && (await this.findByKey(organizationId, idempotencyKey)) !== undefined;
    if (used) return "key used";
    throw await this.#refusal(limits, sandbox);
  }

  /** Removes the row of a sandbox that never ran. */
  async remove(id: SandboxId): Promise<void> {
    await this.#events.transaction(async (transaction, recorder) => {
      const row = await transaction.deleteFrom("sandboxes").where("id", "=", id).returningAll().executeTakeFirst();
      if (row !== undefined) await recorder.removed(row);
    });
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
  async list(
    organizationId: string,
    states: readonly SandboxState[],
    limit: number,
    { after, alias, tag }: SandboxSelection = {},
  ): Promise<Sandbox[]> {
    const time = after?.createdAt.getTime() ?? 0;
    // The index by age holds each state in order, but not several states together: sorting them would read every row.
    const [first, ...others] = states.map((state) =>
      this.#database
        .selectFrom((newest) =>
          newest
            .selectFrom("sandboxes")
            .selectAll()
            .where("organization_id", "=", organizationId)
            .where("state", "=", state)
            .where("hidden", "=", 0)
            .$if(after !== undefined, (query) =>
              query
                .where("created_at", "<=", time)
                .where((row) => row.or([row("created_at", "<", time), row("id", ">", after!.id)])),
            )
            .$if(alias !== undefined, (query) => query.where("alias", "=", alias!))
            .$if(tag !== undefined, (query) => query.where(hasTag(tag!)))
            .orderBy("created_at", "desc")
            .orderBy("id")
            .limit(limit)
            .as("newest"),
        )
        .selectAll(),
    );
    if (first === undefined) return [];
    const all = others.reduce((query, other) => query.unionAll(other), first);
    const rows = await all.orderBy("created_at", "desc").orderBy("id").limit(limit).execute();
    return rows.map(fromRow);
  }

  /** The sandboxes and snapshots of one organization, or of all, that have files on a worker's disk. */
  async owned(organizationId: string | undefined): Promise<OwnedFiles> {
    const sandboxes = await this.#database
      .selectFrom("sandboxes")
      .select(["id", "hibernation_snapshot_id"])
      .where("state", "<>", "stopped")
      .$if(organizationId !== undefined, (query) => query.where("organization_id", "=", organizationId!))
      .execute();
    const checkpoints = await this.#database
      .selectFrom("checkpoints")
      .select("snapshot_id")
      .where("status", "<>", "failed")
      .$if(organizationId !== undefined, (query) => query.where("organization_id", "=", organizationId!))
      .execute();
    const hibernations = sandboxes.flatMap(({ hibernation_snapshot_id }) => hibernation_snapshot_id ?? []);
    const snapshots = new Set([...hibernations, ...checkpoints.map(({ snapshot_id }) => snapshot_id)]);
    return { sandboxes: sandboxes.map(({ id }) => id as SandboxId), snapshots: [...snapshots] as SnapshotId[] };
  }

  /** The ids of sandboxes of all organizations whose time of deletion has passed. */
  async listPastDeletion(now: number): Promise<SandboxId[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .select("id")
      .where("delete_at", "<=", now)
      .where("state", "<>", "stopped")
      .execute();
    return rows.map(({ id }) => id as SandboxId);
  }

  /** The running sandboxes of all organizations whose memory follows their load. */
  async listAutoscaled(): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("state", "=", "running")
      .where("autoscale", "is not", null)
      .execute();
    return rows.map(fromRow).filter(({ autoscale }) => autoscale?.enabled);
  }

  /** The sandboxes of all organizations whose machines run. */
  async listRunning(): Promise<Sandbox[]> {
    const rows = await this.#database.selectFrom("sandboxes").selectAll().where("state", "=", "running").execute();
    return rows.map(fromRow);
  }

  /** The sandboxes of all organizations that have a port of this host and are not stopped. */
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

  /** Those of {@link listHeld} on one worker. */
  async listHeldBy(workerId: string): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("worker_id", "=", workerId)
      .where("state", "<>", "stopped")
      .where((row) =>
        row.or([row("state", "in", [...activeStates, "error"]), row("hidden", "=", 1), row("ephemeral", "=", 1)]),
      )
      .execute();
    return rows.map(fromRow);
  }

  /** How many sandboxes each worker holds, and how many of them run. */
  async countHeld(): Promise<Map<string, { readonly held: number; readonly running: number }>> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .select(["worker_id", "state", ({ fn }) => fn.countAll<number>().as("count")])
      .where("state", "<>", "stopped")
      .where("worker_id", "<>", "")
      .groupBy(["worker_id", "state"])
      .execute();
    const byWorker = Map.groupBy(rows, ({ worker_id }) => worker_id);
    const sum = (counts: typeof rows): number => counts.reduce((total, { count }) => total + count, 0);
    return new Map(
      [...byWorker].map(([id, counts]) => [
        id,
        { held: sum(counts), running: sum(counts.filter(({ state }) => state === "running")) },
      ]),
    );
  }

  /**
   * Makes one move of the lifecycle and changes further columns with it. A hibernation snapshot that the sandbox stops
   * referring to becomes unwanted in the same transaction.
   * @throws `wrong_state` when the move is not allowed or another process moved the sandbox first
   * @throws `quota_exceeded` or `no_capacity` when one of the `limits` would be exceeded
   */
  async move(sandbox: Sandbox, move: Move, changes: Changes = {}, options: MoveOptions = {}): Promise<Sandbox> {
    const { limits, idleAt } = options;
    const wanted = { ...sandbox, memoryMib: changes.memoryMib ?? sandbox.memoryMib };
    const within = limits && isWithin(limits, wanted);
    const state = next(sandbox.state, move);
    const row = await this.#events.transaction(async (transaction, recorder) => {
      if (limits !== undefined) await lockLimits(transaction, limits, sandbox.organizationId);
      const moved = await transaction
        .updateTable("sandboxes")
        .set({ state, ...rowOf(changes) } as Partial<SandboxRow>)
        .where("id", "=", sandbox.id)
        .where("state", "=", sandbox.state)
        .where("generation", "=", sandbox.generation)
        .$if(within !== undefined, (query) => query.where(within!))
        .$if(idleAt !== undefined, (query) => query.where("expires_at", "<=", idleAt!.getTime()))
        .returningAll()
        .executeTakeFirst();
      const before = sandbox.hibernationSnapshotId;
      if (moved !== undefined && before !== undefined && moved.hibernation_snapshot_id !== before) {
        await discardSnapshot(transaction, before);
      }
      if (moved !== undefined) await recorder.changed(moved, options);
      return moved;
    });
    if (row !== undefined) return fromRow(row);
    const found = await this.find(sandbox.id);
    if (found === undefined) throw notFound(sandbox.id);
    const isUnchanged = found.state === sandbox.state && found.generation === sandbox.generation;
    if (isUnchanged && limits !== undefined) throw await this.#refusal(limits, wanted);
    throw wrongState(
      found.state,
      [sandbox.state],
      `cannot ${move} sandbox ${sandbox.id}: its state is now ${found.state}`,
    );
  }

  /**
   * Reserves more memory for an active sandbox. Its event comes with {@link update}, when its machine has the memory.
   * @throws `quota_exceeded` or `no_capacity` when a limit would be exceeded
   */
  async grow(sandbox: Sandbox, memoryMib: number, ofServer: Limits): Promise<void> {
    const wanted = { ...sandbox, memoryMib };
    // The sandbox already counts as active, so only the memory is compared.
    const limits = { ...ofServer, maxSandboxes: Number.MAX_SAFE_INTEGER };
    const lock = (transaction: Transaction<Tables>) => lockLimits(transaction, limits, sandbox.organizationId);
    const { numUpdatedRows } = await behindLock(this.#database, lock, (database) =>
      database
        .updateTable("sandboxes")
        .set({ memory_mib: memoryMib })
        .where("id", "=", sandbox.id)
        .where(isWithin(limits, wanted))
        .executeTakeFirst(),
    );
    if (numUpdatedRows === 0n) throw await this.#refusal(limits, wanted);
  }

  /** Changes columns without a move. A new size counts as effective. */
  async update(id: SandboxId, changes: Changes): Promise<Sandbox> {
    const change = (database: Pick<Database, "updateTable">): Promise<SandboxRow | undefined> =>
      database
        .updateTable("sandboxes")
        .set(rowOf(changes) as Partial<SandboxRow>)
        .where("id", "=", id)
        .returningAll()
        .executeTakeFirst();
    const isResized = changes.memoryMib !== undefined;
    const row = isResized
      ? await this.#events.transaction(async (transaction, recorder) => {
          const resized = await change(transaction);
          if (resized !== undefined) await recorder.changed(resized);
          return resized;
        })
      : await change(this.#database);
    if (row === undefined) throw notFound(id);
    return fromRow(row);
  }

  /** The active sandboxes of an organization that use secret stores. */
  async listUsingSecrets(organizationId: string): Promise<Sandbox[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("state", "in", [...activeStates])
      .where("secret_stores", "is not", null)
      .execute();
    return rows.map(fromRow);
  }

  /** Running sandboxes whose idle deadline in the row has passed. */
  async listIdle(now: Date): Promise<SandboxId[]> {
    const rows = await this.#database
      .selectFrom("sandboxes")
      .select("id")
      .where("state", "=", "running")
      .where("expires_at", "<=", now.getTime())
      .execute();
    return rows.map(({ id }) => id as SandboxId);
  }

  /** Begins the idle timeout of the row anew. The deadline comes `slackMs` after it. */
  async renewIdleTimeout(id: SandboxId, now: Date, slackMs: number): Promise<void> {
    await this.#database
      .updateTable("sandboxes")
      .set({
        expires_at: sql`CAST(${now.getTime() + slackMs} AS bigint) + CAST(idle_timeout_seconds AS bigint) * 1000`,
      })
      .where("id", "=", id)
      .where("state", "=", "running")
      .where("idle_timeout_seconds", ">", 0)
      .execute();
  }

  async setExpiresAt(id: SandboxId, expiresAt: Date): Promise<void> {
    await this.#database
      .updateTable("sandboxes")
      .set({ expires_at: expiresAt.getTime() })
      .where("id", "=", id)
      .where("state", "=", "running")
      .execute();
  }

  /** Why the sandbox is not {@link isWithin} the limits. */
  async #refusal(limits: Limits, wanted: Wanted): Promise<SandboxError> {
    const { maxSandboxes, organizationMemoryMib = Infinity, memoryMib = Infinity } = limits;
    const { rows } = await sql<Record<"count" | "own" | "all", number>>`
      SELECT ${countOf(wanted)} AS count, ${memoryOf(wanted, "organization")} AS own, ${memoryOf(wanted, "all")} AS "all"`.execute(
      this.#database,
    );
    const { count = 0, own = 0, all = 0 } = rows[0] ?? {};
    if (count < maxSandboxes && own + wanted.memoryMib > organizationMemoryMib) {
      const message =
        `memory limit of the organization reached: its sandboxes have ${own} of ${organizationMemoryMib} MiB, and this ` +
        `one needs ${wanted.memoryMib} MiB: delete, hibernate or shrink one first`;
      return new SandboxError("quota_exceeded", message);
    }
    if (count < maxSandboxes && all + wanted.memoryMib > memoryMib) {
      const freeMib = Math.max(0, memoryMib - all);
      const message =
        `a sandbox with ${wanted.memoryMib} MiB does not fit: the sandboxes of this server have ${all} of ${memoryMib} ` +
        "MiB: try again when others have ended, or ask for less memory";
      return new SandboxError("no_capacity", message, { resource: "memory", needMib: wanted.memoryMib, freeMib });
    }
    const message = `concurrent sandbox limit reached (${maxSandboxes}): delete or hibernate one first`;
    return new SandboxError("quota_exceeded", message);
  }
}

/** Makes other starts wait that count towards the same limits, until the transaction ends. */
async function lockLimits(
  transaction: Transaction<Tables>,
  { memoryMib }: Limits,
  organizationId: string,
): Promise<void> {
  await lockOrganization(transaction, organizationId);
  if (memoryMib !== undefined) await lockName(transaction, "memory of all sandboxes");
}

type Wanted = Pick<Sandbox, "id" | "organizationId" | "memoryMib">;

/** Whether the limits allow that the sandbox is active with that memory. They are sums of rows, so no restart changes them. */
function isWithin(limits: Limits, wanted: Wanted): RawBuilder<boolean> {
  const { maxSandboxes, organizationMemoryMib, memoryMib } = limits;
  const conditions = [sql`${countOf(wanted)} < ${maxSandboxes}`];
  for (const [max, whose] of [
    [organizationMemoryMib, "organization"],
    [memoryMib, "all"],
  ] as const) {
    if (max !== undefined) conditions.push(sql`${memoryOf(wanted, whose)} + ${wanted.memoryMib} <= ${max}`);
  }
  return sql<boolean>`(${sql.join(conditions, sql` AND `)})`;
}

/** The other active sandboxes of the organization. */
function countOf({ id, organizationId }: Wanted): RawBuilder<number> {
  return sql<number>`(SELECT count(*) FROM sandboxes WHERE organization_id = ${organizationId} AND id <> ${id}
    AND state IN (${sql.join(activeStates)}))`;
}

/** The memory of the other active sandboxes, in MiB. */
function memoryOf({ id, organizationId }: Wanted, whose: "organization" | "all"): RawBuilder<number> {
  const owned = whose === "all" ? sql`` : sql`AND organization_id = ${organizationId}`;
  return sql<number>`(SELECT coalesce(sum(memory_mib), 0) FROM sandboxes WHERE id <> ${id} ${owned}
    AND state IN (${sql.join(activeStates)}))`;
}

function notFound(id: SandboxId): SandboxError<"not_found"> {
  return new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
}
