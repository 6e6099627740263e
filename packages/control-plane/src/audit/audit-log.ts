import { describeError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";

/** A call that changed something, or was refused. */
export interface AuditEntry {
  /** 32 hexadecimal digits that sort by time. */
  readonly id: string;
  readonly organizationId: string;
  readonly at: Date;
  readonly actor: string;
  /** Absent: a fixed key, or a user of the host. */
  readonly keyId?: string | undefined;
  /** The name of the route or of the command. */
  readonly action: string;
  readonly method: string;
  /** Without its query. */
  readonly path: string;
  /** The id of the resource that the call created. */
  readonly resource?: string | undefined;
  readonly address: string;
  readonly requestId: string;
  /** The status of the answer. */
  readonly status: number;
}

const fromRow = rowReader<AuditEntry>({ at: "date" });

/** How long an entry waits to be written with others, in milliseconds. A crash loses the waiting entries. */
const writeAfterMs = 200;

/** Entries kept in memory while the database does not answer. Further ones are dropped, and the log counts them. */
const maxWaiting = 10_000;

/** Entries in one statement, which holds at most 32,766 values in SQLite. */
const rowsAtOnce = 1000;

/** Characters of a path that an entry keeps: a client chooses the path. */
const maxPathLength = 500;

/** The audit log of all organizations. Disposing writes the waiting entries. */
export class AuditLog implements AsyncDisposable {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #log: Log;
  #waiting: AuditEntry[] = [];
  #dropped = 0;
  #sequence = 0;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;

  constructor(database: Database, clock: Clock, log: Log) {
    this.#database = database;
    this.#clock = clock;
    this.#log = log;
  }

  /** Records a call. The entry is written soon afterwards, together with others. */
  add(entry: Omit<AuditEntry, "id" | "at">): void {
    if (this.#waiting.length >= maxWaiting) {
      this.#dropped += 1;
      return;
    }
    const now = this.#clock.now();
    // Orders the entries of a millisecond.
    this.#sequence = (this.#sequence + 1) % 0x1_0000;
    const id = `${timeOf(now)}${this.#sequence.toString(16).padStart(4, "0")}${randomHex(8)}`;
    this.#waiting.push({ ...entry, id, at: new Date(now), path: entry.path.slice(0, maxPathLength) });
    this.#timer ??= setTimeout(() => void this.flush(), writeAfterMs);
  }

  /** Writes the waiting entries. A failure is logged, and the entries wait for the next attempt. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    // Batches keep their order.
    await this.#writing;
    if (this.#waiting.length === 0) return;
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
    await this.#writing;
  }

  async #write(): Promise<void> {
    const entries = this.#waiting;
    this.#waiting = [];
    let written = 0;
    try {
      for (; written < entries.length; written += rowsAtOnce) {
        const rows = entries.slice(written, written + rowsAtOnce).map(rowOf<AuditEntry>);
        await this.#database.insertInto("audit_entries").values(rows).execute();
      }
      if (this.#dropped > 0) this.#log("error", "entries of the audit log were dropped", { count: this.#dropped });
      this.#dropped = 0;
    } catch (error) {
      this.#waiting = [...entries.slice(written), ...this.#waiting];
      this.#log("error", "cannot write the audit log: its entries wait for the next attempt", {
        count: this.#waiting.length,
        ...describeError(error),
      });
      this.#timer ??= setTimeout(() => void this.flush(), writeAfterMs * 10);
    }
  }

  /** The entries of an organization that are older than the one with the id `before`, newest first. */
  async list(organizationId: string, limit: number, before?: string): Promise<readonly AuditEntry[]> {
    await this.flush();
    const rows = await this.#database
      .selectFrom("audit_entries")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .$if(before !== undefined, (query) => query.where("id", "<", before!))
      .orderBy("id", "desc")
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  /** Removes the entries of all organizations from before a time. Returns their number. */
  async removeOld(before: Date): Promise<number> {
    for (let sum = 0; ;) {
      const { numAffectedRows = 0n } = await sql`
        DELETE FROM audit_entries WHERE (organization_id, id) IN (
          SELECT organization_id, id FROM audit_entries WHERE at < ${before.getTime()}
          ORDER BY at LIMIT ${sql.lit(rowsAtOnce)}
        )`.execute(this.#database);
      sum += Number(numAffectedRows);
      if (numAffectedRows < rowsAtOnce) return sum;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.flush();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** 12 hexadecimal digits. */
function timeOf(milliseconds: number): string {
  return Math.max(0, milliseconds).toString(16).padStart(12, "0");
}
