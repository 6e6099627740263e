import { setImmediate as turn } from "node:timers/promises";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { includedDiskMib, type Window } from "@opensandbox/wire/public/usage.ts";
import type { Database } from "#database/database.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** What a sandbox had over a window, in MiB and vCPUs times milliseconds. */
export interface Use {
  readonly memory: number;
  /** Beyond the included size. */
  readonly disk: number;
  readonly vcpus: number;
}

export interface SandboxUse extends Use {
  readonly sandboxId: string;
}

/** The parts of a sandbox's row that reports show. */
export interface SandboxFacts {
  /** Absent: the row has been removed. */
  readonly state?: SandboxState | undefined;
  readonly alias: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
}

/** A span of time with one size of memory. */
export interface MemorySpan extends Window {
  readonly memoryMib: number;
}

/** A span of time with one size of the disk. */
export interface DiskSpan extends Window {
  /** Beyond the included size. */
  readonly diskMib: number;
}

/** Rows in one read. Requests are served between two reads. */
const rowsAtOnce = 2000;
/** Rows in one read that names each of them. */
const idsAtOnce = 500;

/**
 * Reads usage from the events: each holds what its sandbox has until the next one. A sandbox's sizes change in the
 * transaction of the event, so the sums are right even after a crash.
 */
export class UsageStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * The use of every sandbox of an organization that had memory or additional disk within the window. Takes time in
   * proportion to the events since the window's beginning.
   */
  async ofOrganization(organizationId: string, window: Window): Promise<readonly SandboxUse[]> {
    const uses = new Map<string, { memory: number; disk: number; vcpus: number }>();
    for await (const rows of this.#endingAfter(organizationId, window.from)) {
      for (const row of rows) {
        const length = Math.min(row.until_at ?? window.to, window.to) - Math.max(row.created_at, window.from);
        if (length <= 0 || (row.memory_mib === 0 && row.disk_mib <= includedDiskMib)) continue;
        let use = uses.get(row.sandbox_id);
        if (use === undefined) uses.set(row.sandbox_id, (use = { memory: 0, disk: 0, vcpus: 0 }));
        use.memory += row.memory_mib * length;
        use.vcpus += row.vcpus * length;
        use.disk += Math.max(0, row.disk_mib - includedDiskMib) * length;
      }
    }
    return [...uses].map(([sandboxId, use]) => ({ sandboxId, ...use }));
  }

  /**
   * The events of an organization whose next event comes after `from`, or has not come yet, in parts. The query has no
   * other condition, so each statement reads a bounded range of the index.
   */
  async *#endingAfter(organizationId: string, from: number) {
    const ofOrganization = () =>
      this.#database
        .selectFrom("events")
        .select(["sequence", "sandbox_id", "memory_mib", "vcpus", "disk_mib", "created_at", "until_at"])
        .where("organization_id", "=", organizationId)
        .orderBy("until_at")
        .orderBy("sequence")
        .limit(rowsAtOnce);
    // The last events of sandboxes that are not stopped come first. If another event follows one meanwhile, the next part
    // contains it again.
    const seen = new Set<number>();
    for (let last = 0; ;) {
      const rows = await ofOrganization().where("until_at", "is", null).where("sequence", ">", last).execute();
      for (const { sequence } of rows) seen.add(sequence);
      yield rows;
      await turn();
      if (rows.length < rowsAtOnce) break;
      last = rows.at(-1)!.sequence;
    }
    for (let last = { until_at: from as number | null, sequence: Number.MAX_SAFE_INTEGER }; ;) {
      const rows = await ofOrganization()
        // This condition lets the index begin at the last row.
        .where("until_at", ">=", last.until_at)
        .where((row) => row.or([row("until_at", ">", last.until_at), row("sequence", ">", last.sequence)]))
        .execute();
      yield rows.filter(({ sequence }) => !seen.has(sequence));
      if (rows.length < rowsAtOnce) return;
      last = rows.at(-1)!;
      await turn();
    }
  }

  /** The present facts of sandboxes. A sandbox without a row is absent. */
  async factsOf(ids: readonly string[]): Promise<ReadonlyMap<string, SandboxFacts>> {
    const found = new Map<string, SandboxFacts>();
    for (let first = 0; first < ids.length; first += idsAtOnce) {
      if (first > 0) await turn();
      const rows = await this.#database
        .selectFrom("sandboxes")
        .select(["id", "state", "alias", "tags", "tags_updated_at"])
        .where("id", "in", ids.slice(first, first + idsAtOnce))
        .execute();
      for (const { id, state, alias, tags, tags_updated_at: updatedAt } of rows) {
        const tagsUpdatedAt = updatedAt === null ? undefined : new Date(updatedAt);
        found.set(id, { state, alias, tags: JSON.parse(tags) as Record<string, string>, tagsUpdatedAt });
      }
    }
    return found;
  }

  /** The memory of a sandbox within the window, oldest first; nothing while it had no machine. */
  async memoryOf(sandboxId: SandboxId, window: Window): Promise<readonly MemorySpan[]> {
    const rows = await this.#eventsOf(sandboxId, window).where("memory_mib", ">", 0).execute();
    return rows.map((row) => ({ memoryMib: row.memory_mib, ...lengthOf(row, window) }));
  }

  /** The disk beyond the included size of a sandbox within the window, oldest first. */
  async diskOf(sandboxId: SandboxId, window: Window): Promise<readonly DiskSpan[]> {
    const rows = await this.#eventsOf(sandboxId, window).where("disk_mib", ">", includedDiskMib).execute();
    return rows.map((row) => ({ diskMib: row.disk_mib - includedDiskMib, ...lengthOf(row, window) }));
  }

  #eventsOf(sandboxId: SandboxId, window: Window) {
    return this.#database
      .selectFrom("events")
      .select(["memory_mib", "disk_mib", "created_at", "until_at"])
      .where("sandbox_id", "=", sandboxId)
      .where("created_at", "<", window.to)
      .where((row) => row.or([row("until_at", "is", null), row("until_at", ">", window.from)]))
      .orderBy("sequence");
  }
}

function lengthOf(row: { readonly created_at: number; readonly until_at: number | null }, window: Window): Window {
  return { from: Math.max(row.created_at, window.from), to: Math.min(row.until_at ?? window.to, window.to) };
}
