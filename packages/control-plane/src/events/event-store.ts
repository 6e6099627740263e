import { setImmediate as turn } from "node:timers/promises";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { EventFacts, StopReason } from "@opensandbox/wire/public/events.ts";
import type { Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import { inTransaction } from "#database/transaction.ts";
import type { EventRow, SandboxRow, Tables } from "#database/tables.ts";
import { lastingState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Clock } from "../clock.ts";
import { type Allocation, allocationIn, eventBetween } from "./event-between.ts";
import type { EventSelection, SandboxEvent } from "./event.ts";

/** A page of the events after a cursor. */
export interface EventPage {
  readonly events: readonly SandboxEvent[];
  /** Events up to this one have been considered, whether selected or not. */
  readonly cursor: number;
  readonly hasMore: boolean;
}

/**
 * The events of sandboxes. Each is written in the transaction of the change that it reports, so that a crash neither
 * loses an event nor invents one. Webhooks, event streams and usage reports read the same rows.
 */
export class EventStore {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #listeners = new Set<() => void>();

  constructor(database: Database, clock: Clock) {
    this.#database = database;
    this.#clock = clock;
  }

  /** Runs a transaction that records events, and notifies the listeners after the commit. */
  async transaction<T>(work: (transaction: Transaction<Tables>, recorder: EventRecorder) => Promise<T>): Promise<T> {
    let recorder: EventRecorder | undefined;
    const result = await inTransaction(this.#database, async (transaction) => {
      recorder = new EventRecorder(transaction, this.#clock);
      return await work(transaction, recorder);
    });
    if (recorder?.hasRecorded === true) for (const listener of this.#listeners) listener();
    return result;
  }

  /** Calls the listener after each commit with events in this process, until disposed. It must not throw. */
  onRecorded(listener: () => void): Disposable {
    // A function of its own, so that one listener may be added twice.
    const own = (): void => listener();
    this.#listeners.add(own);
    return { [Symbol.dispose]: () => void this.#listeners.delete(own) };
  }

  /** The sequence of the last event, 0 before the first one. */
  async head(): Promise<number> {
    return await headOf(this.#database);
  }

  /** The selected events after a cursor, oldest first. */
  async after(cursor: number, selection: EventSelection, limit: number): Promise<EventPage> {
    // Sequences rise with the commits: an event that is committed after this line has a greater one.
    const head = await this.head();
    const rows: EventRow[] = [];
    for (let first = cursor; first < head && rows.length < limit; first += sequencesAtOnce) {
      if (first > cursor) await turn();
      const found = await this.#selected(selection)
        .where("sequence", ">", first)
        .where("sequence", "<=", Math.min(first + sequencesAtOnce, head))
        .orderBy("sequence")
        .limit(limit - rows.length)
        .execute();
      rows.push(...found);
    }
    const hasMore = rows.length === limit;
    const end = hasMore ? rows.at(-1)!.sequence : Math.max(cursor, head);
    return { events: eventsOf(rows, selection), cursor: end, hasMore };
  }

  /** The newest selected events, oldest first. */
  async newest(selection: EventSelection, limit: number): Promise<EventPage> {
    const head = await this.head();
    const rows: EventRow[] = [];
    for (let last = head; last > 0 && rows.length < limit; last -= sequencesAtOnce) {
      if (last < head) await turn();
      const found = await this.#selected(selection)
        .where("sequence", "<=", last)
        .where("sequence", ">", last - sequencesAtOnce)
        .orderBy("sequence", "desc")
        .limit(limit - rows.length)
        .execute();
      rows.push(...found);
    }
    return { events: eventsOf(rows.toReversed(), selection), cursor: head, hasMore: false };
  }

  /** One index serves this query: a sandbox has few events, and they all belong to one organization. */
  #selected({ organizationId, sandboxId, types }: EventSelection) {
    const [column, value] =
      sandboxId === undefined ? (["organization_id", organizationId] as const) : (["sandbox_id", sandboxId] as const);
    return this.#database
      .selectFrom("events")
      .selectAll()
      .where(column, "=", value)
      .$if(types !== undefined, (query) => query.where("type", "in", types!));
  }
}

/**
 * The range of sequences that one statement looks at: a search for rare types takes some milliseconds at a time, and
 * requests are served between.
 */
const sequencesAtOnce = 10_000;

function eventsOf(rows: readonly EventRow[], { organizationId }: EventSelection): readonly SandboxEvent[] {
  return rows.filter((row) => row.organization_id === organizationId).map(eventOf);
}

/** Facts about a change that the sandbox's row does not show. */
export interface ChangeFacts {
  /** Why it stopped. Default: `user_requested`. */
  readonly reason?: StopReason | undefined;
  /** When it happened. Default: now. */
  readonly at?: Date | undefined;
}

/** Records events in one transaction. */
export class EventRecorder {
  readonly #transaction: Transaction<Tables>;
  readonly #clock: Clock;
  hasRecorded = false;

  constructor(transaction: Transaction<Tables>, clock: Clock) {
    this.#transaction = transaction;
    this.#clock = clock;
  }

  /** Records a new sandbox. `parentId`: the sandbox that it is a fork of. */
  async added(row: SandboxRow, parentId?: string): Promise<void> {
    if (row.hidden !== 0) return;
    const allocation = allocationIn("creating", shapeOf(row));
    const created: EventFacts = { type: "sandbox.created", data: { image: row.image } };
    await this.#append(row, { facts: created, last: undefined, allocation });
    if (parentId !== undefined) await this.happened(row.id, { type: "sandbox.forked", data: { parentId } });
  }

  /** Records the difference between a sandbox's last event and its row. */
  async changed(row: SandboxRow, { reason = "user_requested", at }: ChangeFacts = {}): Promise<void> {
    const state = lastingState(row.state);
    if (state === undefined || row.hidden !== 0) return;
    const last = await this.#lastOf(row.id);
    const allocation = allocationIn(state, shapeOf(row));
    const facts = eventBetween(last && allocationOf(last), allocation, { image: row.image, reason });
    if (facts !== undefined) await this.#append(row, { facts, last, allocation, at });
  }

  /** Records that the row of a sandbox that never ran is removed. */
  async removed(row: SandboxRow): Promise<void> {
    if (row.hidden === 0) await this.changed({ ...row, state: "stopped" }, { reason: "crash" });
  }

  /** Records something that leaves the sandbox as it is. Nothing is recorded for a hidden or removed sandbox. */
  async happened(sandboxId: string, facts: EventFacts): Promise<void> {
    const last = await this.#lastOf(sandboxId);
    if (last !== undefined) return await this.#append(last, { facts, last, allocation: allocationOf(last) });
    const row = await this.#transaction
      .selectFrom("sandboxes")
      .selectAll()
      .where("id", "=", sandboxId)
      .where("hidden", "=", 0)
      .executeTakeFirst();
    if (row === undefined) return;
    // A stopped sandbox has no last event, and one of an earlier version has none before its first change.
    const allocation = allocationIn("stopped", shapeOf(row));
    await this.#append(row, { facts, last: undefined, allocation });
  }

  async #lastOf(sandboxId: string): Promise<EventRow | undefined> {
    return await this.#transaction
      .selectFrom("events")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .where("until_at", "is", null)
      .executeTakeFirst();
  }

  async #append(about: About, { facts, last, allocation, at }: Append): Promise<void> {
    const now = this.#clock.now();
    // Neither before the sandbox's last event nor in the future, even when a clock was set back.
    const createdAt = Math.max(last?.created_at ?? 0, Math.min(at?.getTime() ?? now, now));
    // The row stays locked until the commit, so that events are committed in the order of their sequences.
    const { sequence } = await this.#transaction
      .updateTable("event_cursors")
      .set((row) => ({ sequence: row("sequence", "+", 1) }))
      .where("name", "=", "head")
      .returning("sequence")
      .executeTakeFirstOrThrow();
    if (last !== undefined) {
      await this.#transaction
        .updateTable("events")
        .set({ until_at: createdAt })
        .where("sequence", "=", last.sequence)
        .execute();
    }
    await this.#transaction
      .insertInto("events")
      .values({
        sequence,
        id: newEventId(),
        organization_id: about.organization_id,
        sandbox_id: "sandbox_id" in about ? about.sandbox_id : about.id,
        type: facts.type,
        data: JSON.stringify(facts.data),
        created_at: createdAt,
        until_at: allocation.state === "stopped" ? createdAt : null,
        state: allocation.state,
        memory_mib: allocation.memoryMib,
        vcpus: allocation.vcpus,
        disk_mib: allocation.diskMib,
      })
      .execute();
    this.hasRecorded = true;
  }
}

/** A sandbox by its row or by its last event. */
type About = Pick<EventRow, "organization_id" | "sandbox_id"> | Pick<SandboxRow, "organization_id" | "id">;

interface Append {
  readonly facts: EventFacts;
  readonly last: EventRow | undefined;
  readonly allocation: Allocation;
  readonly at?: Date | undefined;
}

export function newEventId(): string {
  return `evt_${randomHex(12)}`;
}

export async function headOf(database: Pick<Database, "selectFrom">): Promise<number> {
  const { sequence } = await database
    .selectFrom("event_cursors")
    .select("sequence")
    .where("name", "=", "head")
    .executeTakeFirstOrThrow();
  return sequence;
}

export function eventOf(row: EventRow): SandboxEvent {
  return {
    sequence: row.sequence,
    id: row.id,
    organizationId: row.organization_id,
    sandboxId: row.sandbox_id as SandboxId,
    createdAt: new Date(row.created_at),
    facts: { type: row.type, data: JSON.parse(row.data) as object } as EventFacts,
  };
}

function shapeOf(row: SandboxRow) {
  return { image: row.image, vcpus: row.vcpus, memoryMib: row.memory_mib, workspaceMib: row.workspace_mib };
}

function allocationOf(row: EventRow): Allocation {
  return { state: row.state, memoryMib: row.memory_mib, vcpus: row.vcpus, diskMib: row.disk_mib };
}
