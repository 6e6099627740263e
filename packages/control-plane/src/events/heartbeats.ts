import type { Database } from "#database/database.ts";

/**
 * How often a server notes that its worker is alive, in milliseconds. The time when a machine was lost is as exact as
 * this.
 */
export const heartbeatMs = 30_000;

/** When each worker was last known to be alive. */
export class Heartbeats {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async beat(workerId: string, now: number): Promise<void> {
    await this.#database
      .insertInto("worker_heartbeats")
      .values({ worker_id: workerId, alive_at: now })
      .onConflict((conflict) => conflict.column("worker_id").doUpdateSet({ alive_at: now }))
      .execute();
  }

  async last(workerId: string): Promise<Date | undefined> {
    const row = await this.#database
      .selectFrom("worker_heartbeats")
      .select("alive_at")
      .where("worker_id", "=", workerId)
      .executeTakeFirst();
    return row && new Date(row.alive_at);
  }
}
