import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Selectable } from "kysely";
import type { Database } from "#database/database.ts";
import type { Tables } from "#database/tables.ts";
import type { Preview } from "./preview.ts";

/** The rows of preview URLs. */
export class PreviewStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Adds it, or returns the one that is there for the port. A custom host name of a sandbox that has been stopped is
   * free. @throws `already_exists` when the custom host name leads elsewhere
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
      if (existing !== undefined) return { preview: fromRow(existing, organizationId), added: false };
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
          throw new SandboxError("already_exists", `${customHostname} leads to another sandbox's port already`, {
            resource: "preview URL",
            id: customHostname,
          });
        }
      }
      const row = { id, sandbox_id: sandboxId, port, custom_hostname: customHostname ?? null };
      await transaction
        .insertInto("previews")
        .values({ ...row, created_at: createdAt.getTime() })
        .execute();
      return { preview, added: true };
    });
  }

  /** Those of a sandbox, by port. */
  async list(organizationId: string, sandboxId: SandboxId): Promise<Preview[]> {
    const rows = await this.#database
      .selectFrom("previews")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .orderBy("port")
      .execute();
    return rows.map((row) => fromRow(row, organizationId));
  }

  /** Returns whether there was one. */
  async remove(sandboxId: SandboxId, port: number): Promise<boolean> {
    const { numDeletedRows } = await this.#database
      .deleteFrom("previews")
      .where("sandbox_id", "=", sandboxId)
      .where("port", "=", port)
      .executeTakeFirst();
    return numDeletedRows > 0n;
  }

  /** Where a host name of a user's leads. */
  async findTarget(hostname: string): Promise<{ readonly sandboxId: SandboxId; readonly port: number } | undefined> {
    const row = await this.#database
      .selectFrom("previews")
      .select(["sandbox_id", "port"])
      .where("custom_hostname", "=", hostname)
      .executeTakeFirst();
    return row && { sandboxId: row.sandbox_id as SandboxId, port: row.port };
  }
}

function fromRow(row: Selectable<Tables["previews"]>, organizationId: string): Preview {
  return {
    id: row.id,
    sandboxId: row.sandbox_id as SandboxId,
    organizationId,
    port: row.port,
    customHostname: row.custom_hostname ?? undefined,
    createdAt: new Date(row.created_at),
  };
}
