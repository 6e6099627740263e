import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { Preview } from "./preview.ts";

const fromRow = rowReader<Omit<Preview, "organizationId">>({ createdAt: "date" });

/** The rows of previews. */
export class PreviewStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Adds a preview, or returns the one that the port has. The custom domain of a stopped sandbox is free again.
   * @throws `already_exists` when the custom domain leads elsewhere
   */
  async add(preview: Preview): Promise<{ readonly preview: Preview; readonly added: boolean }> {
    const { id, sandboxId, organizationId, port, customHostname, createdAt } = preview;
    return this.#database.transaction().execute(async (transaction) => {
      const existing = await transaction
        .selectFrom("previews")
        .selectAll()
        .where("sandbox_id", "=", sandboxId)
        .where("port", "=", port)
        .executeTakeFirst();
      if (existing !== undefined) return { preview: { ...fromRow(existing), organizationId }, added: false };
      if (customHostname !== undefined) {
        await transaction
          .deleteFrom("previews")
          .where("custom_hostname", "=", customHostname)
          .where("sandbox_id", "in", (query) =>
            query.selectFrom("sandboxes").select("id").where("state", "=", "stopped"),
          )
          .execute();
        const taken = await transaction
          .selectFrom("previews")
          .select("id")
          .where("custom_hostname", "=", customHostname)
          .executeTakeFirst();
        if (taken !== undefined) {
          throw new SandboxError("already_exists", `${customHostname} already leads to another port`, {
            resource: "preview URL",
            id: customHostname,
          });
        }
      }
      const row = rowOf({ id, sandboxId, port, customHostname, createdAt });
      await transaction.insertInto("previews").values(row).execute();
      return { preview, added: true };
    });
  }

  /** The previews of a sandbox, by port. */
  async list(organizationId: string, sandboxId: SandboxId): Promise<Preview[]> {
    const rows = await this.#database
      .selectFrom("previews")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .orderBy("port")
      .execute();
    return rows.map((row) => ({ ...fromRow(row), organizationId }));
  }

  /** Returns whether the port had a preview. */
  async remove(sandboxId: SandboxId, port: number): Promise<boolean> {
    const { numDeletedRows } = await this.#database
      .deleteFrom("previews")
      .where("sandbox_id", "=", sandboxId)
      .where("port", "=", port)
      .executeTakeFirst();
    return numDeletedRows > 0n;
  }

  /** The port that a custom domain leads to. */
  async findTarget(hostname: string): Promise<{ readonly sandboxId: SandboxId; readonly port: number } | undefined> {
    const row = await this.#database
      .selectFrom("previews")
      .select(["sandbox_id", "port"])
      .where("custom_hostname", "=", hostname)
      .executeTakeFirst();
    return row && { sandboxId: row.sandbox_id as SandboxId, port: row.port };
  }
}
