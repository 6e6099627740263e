import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { LifetimeRow } from "#database/tables.ts";
import type { Lifetime } from "./lifetime.ts";

const fromRow = rowReader<Lifetime>({ endsAt: "date", wakesOnUse: "boolean", paused: "boolean" });

/** The rows of lifetimes. */
export class LifetimeStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds a lifetime, or replaces that of the same sandbox. */
  async put(lifetime: Lifetime): Promise<void> {
    const row: LifetimeRow = rowOf(lifetime);
    const { sandbox_id: _, ...others } = row;
    await this.#database
      .insertInto("lifetimes")
      .values(row)
      .onConflict((conflict) => conflict.column("sandbox_id").doUpdateSet(others))
      .execute();
  }

  async find(sandboxId: SandboxId): Promise<Lifetime | undefined> {
    const row = await this.#database
      .selectFrom("lifetimes")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** The lifetimes of an organization's sandboxes. */
  async listOf(organizationId: string): Promise<ReadonlyMap<SandboxId, Lifetime>> {
    const rows = await this.#database
      .selectFrom("lifetimes")
      .innerJoin("sandboxes", "sandboxes.id", "lifetimes.sandbox_id")
      .selectAll("lifetimes")
      .where("sandboxes.organization_id", "=", organizationId)
      .execute();
    return new Map(rows.map(fromRow).map((lifetime) => [lifetime.sandboxId, lifetime]));
  }

  /** The ended lifetimes of all organizations, except those of sandboxes that are paused and hibernated. */
  async listEnded(now: number): Promise<Lifetime[]> {
    const rows = await this.#database
      .selectFrom("lifetimes")
      .leftJoin("sandboxes", "sandboxes.id", "lifetimes.sandbox_id")
      .selectAll("lifetimes")
      .where("ends_at", "<=", now)
      .where((row) => row.or([row("paused", "=", 0), row("sandboxes.state", "=", "running")]))
      .execute();
    return rows.map(fromRow);
  }

  async remove(sandboxId: SandboxId): Promise<void> {
    await this.#database.deleteFrom("lifetimes").where("sandbox_id", "=", sandboxId).execute();
  }

  /** Removes the lifetimes of sandboxes that are stopped or have no row. */
  async removeStopped(): Promise<void> {
    await this.#database
      .deleteFrom("lifetimes")
      .where("sandbox_id", "not in", (query) =>
        query.selectFrom("sandboxes").select("id").where("state", "<>", "stopped"),
      )
      .execute();
  }
}
