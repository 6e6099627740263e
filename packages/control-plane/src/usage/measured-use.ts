import { setImmediate as turn } from "node:timers/promises";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Window } from "@opensandbox/wire/public/usage.ts";
import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import type { Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import type { MeasuredHourRow, Tables } from "#database/tables.ts";
import { inTransaction, lockName } from "#database/transaction.ts";

/** What the processes of a machine have used. */
export interface Measured {
  /** Milliseconds of processor time. */
  readonly cpu: number;
  /** Bytes. */
  readonly egress: number;
}

/** What was measured in a part of an hour. */
export interface MeasuredSpan extends Window, Measured {
  readonly sandboxId: string;
}

const hourMs = 3_600_000;
/** Processes in one transaction. Requests are served between two. */
const processesAtOnce = 200;
/** Rows in one read. */
const rowsAtOnce = 2000;

/** Stores what workers measure, by the hour. */
export class MeasuredUse {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Adds what each process has used since its numbers were last stored. Numbers that are repeated, or late, add nothing.
   * The use of a longer time without measurements is divided among its hours. A process without numbers has begun
   * within the last `everyMs`. A sandbox whose row has been removed is not counted.
   */
  async count(uses: readonly MachineUse[], now: number, everyMs: number): Promise<void> {
    const unique = [...largest(uses).values()];
    for (let first = 0; first < unique.length; first += processesAtOnce) {
      if (first > 0) await turn();
      const part = unique.slice(first, first + processesAtOnce);
      await inTransaction(this.#database, async (transaction) => {
        await lockName(transaction, "measured use");
        await countPart(transaction, part, now, everyMs);
      });
    }
  }

  /** What each sandbox of an organization has used within the window, in whole numbers. */
  async ofOrganization(organizationId: string, window: Window): Promise<ReadonlyMap<string, Measured>> {
    const sums = new Map<string, { cpu: number; egress: number }>();
    for await (const rows of this.#rowsOf(organizationId, window)) {
      for (const { sandboxId, cpu, egress } of rows.flatMap((row) => spanWithin(row, window))) {
        const sum = sums.get(sandboxId) ?? { cpu: 0, egress: 0 };
        sums.set(sandboxId, { cpu: sum.cpu + cpu, egress: sum.egress + egress });
      }
    }
    for (const [sandboxId, { cpu, egress }] of sums) {
      sums.set(sandboxId, { cpu: Math.round(cpu), egress: Math.round(egress) });
    }
    return sums;
  }

  async *#rowsOf(organizationId: string, window: Window): AsyncGenerator<readonly MeasuredHourRow[]> {
    for (let last = { hour: hourOf(window.from), sandboxId: "" }; ;) {
      const rows = await this.#database
        .selectFrom("measured_hours")
        .selectAll()
        .where("organization_id", "=", organizationId)
        // This condition lets the index begin at the last row.
        .where("hour", ">=", last.hour)
        .where("hour", "<", window.to)
        .where((row) => row.or([row("hour", ">", last.hour), row("sandbox_id", ">", last.sandboxId)]))
        .orderBy("hour")
        .orderBy("sandbox_id")
        .limit(rowsAtOnce)
        .execute();
      yield rows;
      const end = rows.at(-1);
      if (end === undefined || rows.length < rowsAtOnce) return;
      last = { hour: end.hour, sandboxId: end.sandbox_id };
      await turn();
    }
  }

  /** The parts of hours within the window, oldest first. */
  async ofSandbox(sandboxId: SandboxId, window: Window): Promise<readonly MeasuredSpan[]> {
    const rows = await this.#database
      .selectFrom("measured_hours")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .where("hour", ">=", hourOf(window.from))
      .where("hour", "<", window.to)
      .orderBy("hour")
      .execute();
    return rows.flatMap((row) => spanWithin(row, window));
  }
}

/** The largest numbers of each process: a machine that ends during a measurement may be in it twice. */
function largest(uses: readonly MachineUse[]): ReadonlyMap<string, MachineUse> {
  const found = new Map<string, MachineUse>();
  for (const use of uses) {
    const other = found.get(use.process);
    const cpuMs = Math.max(use.cpuMs, other?.cpuMs ?? 0);
    const egressBytes = Math.max(use.egressBytes, other?.egressBytes ?? 0);
    found.set(use.process, { ...use, cpuMs, egressBytes });
  }
  return found;
}

async function countPart(
  transaction: Transaction<Tables>,
  uses: readonly MachineUse[],
  now: number,
  everyMs: number,
): Promise<void> {
  const sandboxes = await transaction
    .selectFrom("sandboxes")
    .select(["id", "organization_id", "created_at"])
    .where(
      "id",
      "in",
      uses.map(({ sandboxId }) => sandboxId),
    )
    .execute();
  const byId = new Map(sandboxes.map((sandbox) => [sandbox.id, sandbox]));
  const known = await transaction
    .selectFrom("measured_processes")
    .selectAll()
    .where(
      "process",
      "in",
      uses.map(({ process }) => process),
    )
    .execute();
  const before = new Map(known.map((row) => [row.process, row]));
  for (const { sandboxId, process, cpuMs, egressBytes } of uses) {
    const sandbox = byId.get(sandboxId);
    if (sandbox === undefined) continue;
    const last = before.get(process);
    const added = {
      cpu: Math.max(0, cpuMs - (last?.cpu_ms ?? 0)),
      egress: Math.max(0, egressBytes - (last?.egress_bytes ?? 0)),
    };
    const from = last?.measured_at ?? Math.max(now - everyMs, sandbox.created_at);
    const numbers = {
      cpu_ms: Math.max(cpuMs, last?.cpu_ms ?? 0),
      egress_bytes: Math.max(egressBytes, last?.egress_bytes ?? 0),
      measured_at: Math.max(now, last?.measured_at ?? 0),
    };
    await transaction
      .insertInto("measured_processes")
      .values({ process, ...numbers })
      .onConflict((conflict) => conflict.column("process").doUpdateSet(numbers))
      .execute();
    if (added.cpu === 0 && added.egress === 0) continue;
    for (const part of byHour(added, { from, to: now })) {
      await addToHour(transaction, { sandboxId, organizationId: sandbox.organization_id, ...part });
    }
  }
}

async function addToHour(
  transaction: Transaction<Tables>,
  part: Measured & Window & { readonly sandboxId: string; readonly organizationId: string },
): Promise<void> {
  const { sandboxId, organizationId, from, to, cpu, egress } = part;
  const key = { sandbox_id: sandboxId, hour: hourOf(from) };
  const row = await transaction
    .selectFrom("measured_hours")
    .selectAll()
    .where("sandbox_id", "=", key.sandbox_id)
    .where("hour", "=", key.hour)
    .executeTakeFirst();
  const numbers = {
    from_at: Math.min(from, row?.from_at ?? from),
    until_at: Math.max(to, row?.until_at ?? to),
    cpu_ms: cpu + (row?.cpu_ms ?? 0),
    egress_bytes: egress + (row?.egress_bytes ?? 0),
  };
  await transaction
    .insertInto("measured_hours")
    .values({ ...key, organization_id: organizationId, ...numbers })
    .onConflict((conflict) => conflict.columns(["sandbox_id", "hour"]).doUpdateSet(numbers))
    .execute();
}

/** Divides what was used over a time among its hours, in whole numbers whose sums are the given ones. Pure. */
export function byHour({ cpu, egress }: Measured, { from, to }: Window): readonly (Measured & Window)[] {
  // A clock that was set back measures an instant.
  const begin = Math.min(from, to - 1);
  const parts: (Measured & Window)[] = [];
  const shareUntil = (amount: number, time: number): number => Math.round((amount * (time - begin)) / (to - begin));
  for (let start = begin; start < to;) {
    const end = Math.min(to, hourOf(start) + hourMs);
    const part = {
      cpu: shareUntil(cpu, end) - shareUntil(cpu, start),
      egress: shareUntil(egress, end) - shareUntil(egress, start),
    };
    if (part.cpu > 0 || part.egress > 0) parts.push({ from: start, to: end, ...part });
    start = end;
  }
  return parts;
}

/** The part of a row that a window covers: the use within the hour counts as even. */
function spanWithin(row: MeasuredHourRow, window: Window): readonly MeasuredSpan[] {
  const [from, to] = [Math.max(row.from_at, window.from), Math.min(row.until_at, window.to)];
  if (to <= from) return [];
  const share = (to - from) / (row.until_at - row.from_at);
  return [{ sandboxId: row.sandbox_id, from, to, cpu: row.cpu_ms * share, egress: row.egress_bytes * share }];
}

function hourOf(time: number): number {
  return Math.floor(time / hourMs) * hourMs;
}
