import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import { inTransaction } from "#database/transaction.ts";

/** This is more than every 24-bit hash, and the organizations of earlier versions have such hashes as numbers. */
const firstNumber = 2 ** 24;

/** Numbers of organizations: unique in the database, and never changed. A worker makes groups of its host from them. */
export class OrganizationNumbers {
  readonly #database: Database;
  readonly #known = new Map<string, number>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** The number of an organization, which is given when it has none. */
  async of(organizationId: string): Promise<number> {
    const known = this.#known.get(organizationId);
    if (known !== undefined) return known;
    // The index is unique, so of two servers that choose the same number at once, one chooses again.
    await inTransaction(this.#database, (transaction) =>
      sql`
        UPDATE organizations SET number = (
          SELECT coalesce(max(number), ${sql.lit(firstNumber - 1)}) + 1 FROM organizations
          WHERE number >= ${sql.lit(firstNumber)}
        ) WHERE id = ${organizationId} AND number IS NULL`.execute(transaction),
    );
    const { number } = await this.#database
      .selectFrom("organizations")
      .select("number")
      .where("id", "=", organizationId)
      .$narrowType<{ number: number }>()
      .executeTakeFirstOrThrow();
    this.#known.set(organizationId, number);
    return number;
  }
}
