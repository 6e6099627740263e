import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { EventRecorder, EventStore } from "#events/event-store.ts";
import type { Preview } from "./preview.ts";

const fromRow = rowReader<Omit<Preview, "organizationId">>({ createdAt: "date", domainProvedAt: "date" });

/** A custom domain with the port that it leads to. */
export interface CustomDomain {
  readonly id: string;
  readonly hostname: string;
  readonly sandboxId: SandboxId;
  readonly organizationId: string;
  readonly port: number;
  /** When its DNS record was last found. */
  readonly provedAt: Date | undefined;
}

/** The rows of previews. A change of a port's address records its event in the same transaction. */
export class PreviewStore {
  readonly #database: Database;
  readonly #events: EventStore;

  constructor(database: Database, events: EventStore) {
    this.#database = database;
    this.#events = events;
  }

  /**
   * Adds a preview, or returns the one that the port has. The custom domain of a stopped sandbox is free again.
   * @throws `already_exists` when the custom domain leads elsewhere
   */
  async add(preview: Preview): Promise<{ readonly preview: Preview; readonly added: boolean }> {
    const { id, sandboxId, organizationId, port, customHostname, domainProvedAt, createdAt } = preview;
    return this.#events.transaction(async (transaction, recorder) => {
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
      const row = rowOf({ id, sandboxId, port, customHostname, domainProvedAt, createdAt });
      await transaction.insertInto("previews").values(row).execute();
      await recordUrl(
        recorder,
        sandboxId,
        customHostname === undefined ? { port } : { port, hostname: customHostname },
      );
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
    return this.#events.transaction(async (transaction, recorder) => {
      const { numDeletedRows } = await transaction
        .deleteFrom("previews")
        .where("sandbox_id", "=", sandboxId)
        .where("port", "=", port)
        .executeTakeFirst();
      if (numDeletedRows === 0n) return false;
      await recordUrl(recorder, sandboxId, { port, removed: true });
      return true;
    });
  }

  /** The port that a custom domain leads to. */
  async findDomain(hostname: string): Promise<CustomDomain | undefined> {
    const row = await this.#database
      .selectFrom("previews")
      .innerJoin("sandboxes", "sandboxes.id", "previews.sandbox_id")
      .select(["previews.id", "sandbox_id", "organization_id", "port", "domain_proved_at"])
      .where("custom_hostname", "=", hostname)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { id, sandbox_id: sandboxId, organization_id: organizationId, port, domain_proved_at: provedAt } = row;
    const proved = provedAt === null ? undefined : new Date(provedAt);
    return { id, hostname, sandboxId: sandboxId as SandboxId, organizationId, port, provedAt: proved };
  }

  async setProvedAt({ id }: CustomDomain, provedAt: Date | undefined): Promise<void> {
    const domain_proved_at = provedAt?.getTime() ?? null;
    await this.#database.updateTable("previews").set({ domain_proved_at }).where("id", "=", id).execute();
  }

  /** Takes the domain from its preview, whose port keeps its generated name. */
  async releaseDomain({ id, sandboxId, port }: CustomDomain): Promise<void> {
    const change = { custom_hostname: null, domain_proved_at: null };
    await this.#events.transaction(async (transaction, recorder) => {
      await transaction.updateTable("previews").set(change).where("id", "=", id).execute();
      await recordUrl(recorder, sandboxId, { port });
    });
  }
}

async function recordUrl(
  recorder: EventRecorder,
  sandboxId: SandboxId,
  data: { readonly port: number; readonly hostname?: string; readonly removed?: true },
): Promise<void> {
  await recorder.happened(sandboxId, { type: "sandbox.preview_url.changed", data });
}
