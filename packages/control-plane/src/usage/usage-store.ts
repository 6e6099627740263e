import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { includedDiskMib, type Window } from "@opensandbox/wire/public/usage.ts";
import { sql, type RawBuilder } from "kysely";
import type { Database } from "#database/database.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** What a sandbox had over a window, in MiB and vCPUs times milliseconds. */
export interface Use {
  readonly memory: number;
  /** Beyond the included size. */
  readonly disk: number;
  readonly vcpus: number;
}

/** The use of a sandbox, with the parts of its row that reports show. Without a row it has no state. */
export interface SandboxUse extends Use {
  readonly sandboxId: string;
  readonly state?: SandboxState | undefined;
  readonly alias: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
}

/** A span of time with one size of memory. */
export interface MemorySpan extends Window {
  readonly memoryMib: number;
}

/**
 * Reads usage from the events: each holds what its sandbox has until the next one. A sandbox's sizes change in the
 * transaction of the event, so the sums are right whatever ended the server.
 */
export class UsageStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The use of every sandbox of an organization that had memory or additional disk within the window. */
  async ofOrganization(organizationId: string, window: Window): Promise<readonly SandboxUse[]> {
    const length = lengthWithin(window);
    const { rows } = await sql<{
      sandbox_id: string;
      memory: number | string;
      disk: number | string;
      vcpus: number | string;
      state: SandboxState | null;
      alias: string | null;
      tags: string | null;
      tags_updated_at: number | null;
    }>`
      SELECT used.*, sandboxes.state, sandboxes.alias, sandboxes.tags, sandboxes.tags_updated_at FROM (
        SELECT sandbox_id, sum(memory_mib * ${length}) AS memory, sum(vcpus * ${length}) AS vcpus,
          sum(CASE WHEN disk_mib > ${includedDiskMib} THEN (disk_mib - ${includedDiskMib}) * ${length} ELSE 0 END) AS disk
        FROM events WHERE organization_id = ${organizationId} AND ${overlaps(window)}
        GROUP BY sandbox_id
      ) AS used LEFT JOIN sandboxes ON sandboxes.id = used.sandbox_id
      WHERE used.memory > 0 OR used.disk > 0`.execute(this.#database);
    // PostgreSQL returns sums as text.
    return rows.map((row) => ({
      sandboxId: row.sandbox_id,
      memory: Number(row.memory),
      disk: Number(row.disk),
      vcpus: Number(row.vcpus),
      state: row.state ?? undefined,
      alias: row.alias ?? "",
      tags: JSON.parse(row.tags ?? "{}") as Record<string, string>,
      tagsUpdatedAt: row.tags_updated_at === null ? undefined : new Date(row.tags_updated_at),
    }));
  }

  /** The memory of a sandbox within the window, oldest first; nothing while it had no machine. */
  async memoryOf(sandboxId: SandboxId, window: Window): Promise<readonly MemorySpan[]> {
    const rows = await this.#database
      .selectFrom("events")
      .select(["memory_mib", "created_at", "until_at"])
      .where("sandbox_id", "=", sandboxId)
      .where("memory_mib", ">", 0)
      .where(overlaps(window))
      .orderBy("sequence")
      .execute();
    return rows.map(({ memory_mib: memoryMib, created_at: begin, until_at: end }) => ({
      memoryMib,
      from: Math.max(begin, window.from),
      to: Math.min(end ?? window.to, window.to),
    }));
  }
}

/** Whether an event's time until the next one overlaps with the window. */
function overlaps({ from, to }: Window): RawBuilder<boolean> {
  return sql<boolean>`created_at < ${to} AND (until_at IS NULL OR until_at > ${from})`;
}

/** The milliseconds of that overlap. */
function lengthWithin({ from, to }: Window): RawBuilder<number> {
  return sql<number>`((CASE WHEN until_at IS NULL OR until_at > ${to} THEN ${to} ELSE until_at END)
    - (CASE WHEN created_at < ${from} THEN ${from} ELSE created_at END))`;
}
