import type { Database } from "#database/database.ts";

/** The servers that share the database, as the use cases of one of them see them. */
export interface Servers {
  /** The id of this server. Undefined: no other server can use the rows that this one uses. */
  readonly id: string | undefined;
  /** Whether this server does the work that has no caller: it watches workers and makes sandboxes end. One server does. */
  readonly isOnDuty: boolean;
  /** Whether a server with the id uses the database now. */
  isAlive(id: string): Promise<boolean>;
}

/** A server that shares its rows with no other one. */
export const onlyServer: Servers = { id: undefined, isOnDuty: true, isAlive: () => Promise.resolve(false) };

/** The name of the lease of the work without callers. Its holder is one of the servers, and it ends with that server. */
const dutyLease = "duty";

/** One of several servers. {@link look} has to be called at intervals. */
export class SharedServers implements Servers {
  readonly id: string;
  readonly #database: Database;
  #isOnDuty = false;
  #others: readonly string[] = [];

  constructor(database: Database, id: string) {
    this.#database = database;
    this.id = id;
  }

  get isOnDuty(): boolean {
    return this.#isOnDuty;
  }

  /** Whether no other server used the database at the last look. */
  get isAlone(): boolean {
    return this.#others.length === 0;
  }

  async isAlive(id: string): Promise<boolean> {
    const row = await this.#database.selectFrom("servers").select("id").where("id", "=", id).executeTakeFirst();
    return row !== undefined;
  }

  /**
   * Takes the duty when no server has it.
   * @returns what there is to take over: the whole duty, what a server has left that has ended, or nothing
   */
  async look(): Promise<"duty" | "rest" | undefined> {
    const before = this.#others;
    const rows = await this.#database.selectFrom("servers").select("id").where("id", "<>", this.id).execute();
    this.#others = rows.map(({ id }) => id);
    if (this.#isOnDuty) return before.some((id) => !this.#others.includes(id)) ? "rest" : undefined;
    if (!(await this.#take())) return undefined;
    this.#isOnDuty = true;
    return "duty";
  }

  async #take(): Promise<boolean> {
    const row = await this.#database
      .insertInto("leases")
      .values({ name: dutyLease, holder: this.id, place: "", generation: 1, expires_at: 0 })
      .onConflict((conflict) =>
        conflict
          .column("name")
          .doUpdateSet((lease) => ({ holder: this.id, generation: lease("leases.generation", "+", 1) }))
          // The holder's end frees it. After an end of all servers at once nothing does.
          .where((lease) =>
            lease.or([
              lease("leases.holder", "=", ""),
              lease.not(lease.exists(lease.selectFrom("servers").select("id").whereRef("id", "=", "leases.holder"))),
            ]),
          ),
      )
      .returning("holder")
      .executeTakeFirst();
    return row !== undefined;
  }
}
