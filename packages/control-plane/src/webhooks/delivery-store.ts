import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { eventTypesFrom } from "@opensandbox/wire/public/events.ts";
import type { Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import { inTransaction } from "#database/transaction.ts";
import type { Tables, WebhookDeliveryRow } from "#database/tables.ts";
import { eventOf, headOf } from "#events/event-store.ts";
import type { SandboxEvent } from "#events/event.ts";
import { webhookOf } from "./webhook-store.ts";
import type { Delivery, Webhook } from "./webhook.ts";

/** How long a failed delivery is retried, in milliseconds. */
export const retryForMs = 24 * 3_600_000;

/** The pauses after the first failed attempts, in milliseconds. The last one repeats. */
const pausesMs = [5_000, 30_000, 120_000, 600_000, 1_800_000, 3_600_000];

/**
 * How long an attempt counts as under way, in milliseconds. It is longer than any attempt takes. After a crash of the
 * server, the next attempt comes when it has passed.
 */
const claimMs = 60_000;

/** Events that become deliveries in one transaction. */
const eventsAtOnce = 200;

/** A delivery that is due, with its destination. */
export interface DueDelivery {
  readonly id: string;
  readonly webhookId: string;
  readonly body: string;
  readonly url: string;
}

/** How an attempt ended: with the status of an answer, or without one. */
export type Outcome = { readonly status: number } | { readonly error: string };

/** The rows of deliveries. Servers on the same database may share them: each attempt is claimed by one of them. */
export class DeliveryStore {
  readonly #database: Database;
  readonly #bodyOf: (event: SandboxEvent) => string;

  constructor(database: Database, bodyOf: (event: SandboxEvent) => string) {
    this.#database = database;
    this.#bodyOf = bodyOf;
  }

  /**
   * Makes deliveries of the events that were recorded since the last call. Returns whether more are left. Without an
   * enabled webhook nothing is written.
   */
  async fanOut(now: number): Promise<boolean> {
    const { first } = await this.#database
      .selectFrom("webhooks")
      .select((row) => row.fn.min("from_sequence").as("first"))
      .where("enabled", "=", 1)
      .executeTakeFirstOrThrow();
    if (first === null) return false;
    return await inTransaction(this.#database, async (transaction) => {
      const { sequence: done } = await transaction
        .selectFrom("event_cursors")
        .select("sequence")
        .where("name", "=", "webhooks")
        .executeTakeFirstOrThrow();
      const head = await headOf(transaction);
      const from = Math.max(done, first);
      if (from >= head) return false;
      const events = (
        await transaction
          .selectFrom("events")
          .selectAll()
          .where("sequence", ">", from)
          .where("sequence", "<=", head)
          .orderBy("sequence")
          .limit(eventsAtOnce)
          .execute()
      ).map(eventOf);
      const isFull = events.length === eventsAtOnce;
      const { numUpdatedRows } = await transaction
        .updateTable("event_cursors")
        .set({ sequence: isFull ? events.at(-1)!.sequence : head })
        .where("name", "=", "webhooks")
        .where("sequence", "=", done)
        .executeTakeFirst();
      // Another server has made these deliveries.
      if (numUpdatedRows === 0n) return true;
      await this.#deliver(transaction, events, now);
      return isFull;
    });
  }

  async #deliver(transaction: Transaction<Tables>, events: readonly SandboxEvent[], now: number): Promise<void> {
    const organizations = [...new Set(events.map(({ organizationId }) => organizationId))];
    if (organizations.length === 0) return;
    const rows = await transaction
      .selectFrom("webhooks")
      .selectAll()
      .where("organization_id", "in", organizations)
      .where("enabled", "=", 1)
      .execute();
    const webhooks = rows.map((row) => ({ ...webhookOf(row), fromSequence: row.from_sequence }));
    for (const event of events) {
      const wanting = webhooks.filter((webhook) => event.sequence > webhook.fromSequence && wants(webhook, event));
      if (wanting.length === 0) continue;
      const body = this.#bodyOf(event);
      const values = wanting.map(({ id }) => deliveryRow({ webhookId: id, event, body, isOrdered: true }, now));
      await transaction.insertInto("webhook_deliveries").values(values).execute();
    }
  }

  /** Adds a delivery of an event that only this webhook receives. It waits for no other delivery. */
  async addTest(webhookId: string, event: SandboxEvent, now: number): Promise<string> {
    const row = deliveryRow({ webhookId, event, body: this.#bodyOf(event), isOrdered: false }, now);
    await this.#database.insertInto("webhook_deliveries").values(row).execute();
    return row.id;
  }

  /**
   * Claims due deliveries, at most one of each sandbox and webhook: the earliest that has not ended. The deliveries of
   * a disabled webhook wait, except those that a user has asked to send again. @param busy webhooks that can take no
   * more attempts now @param roomFor how many attempts for a webhook may begin
   */
  async claimDue(
    now: number,
    { busy, roomFor, limit }: { busy: readonly string[]; roomFor: (webhookId: string) => number; limit: number },
  ): Promise<readonly DueDelivery[]> {
    const found = await this.#database
      .selectFrom("webhook_deliveries as delivery")
      .innerJoin("webhooks", "webhooks.id", "delivery.webhook_id")
      .select(["delivery.id", "delivery.webhook_id", "delivery.body", "webhooks.url"])
      .where("delivery.status", "=", "pending")
      .where("delivery.next_attempt_at", "<=", now)
      .where((row) => row.or([row("delivery.claimed_until", "is", null), row("delivery.claimed_until", "<=", now)]))
      .$if(busy.length > 0, (query) => query.where("delivery.webhook_id", "not in", busy))
      .where((row) => row.or([row("webhooks.enabled", "=", 1), row("delivery.ordered", "=", 0)]))
      .where((row) =>
        row.or([
          row("delivery.ordered", "=", 0),
          row.not(
            row.exists(
              row
                .selectFrom("webhook_deliveries as earlier")
                .select("earlier.id")
                .whereRef("earlier.webhook_id", "=", "delivery.webhook_id")
                .whereRef("earlier.sandbox_id", "=", "delivery.sandbox_id")
                .where("earlier.status", "=", "pending")
                .where("earlier.ordered", "=", 1)
                .whereRef("earlier.sequence", "<", "delivery.sequence"),
            ),
          ),
        ]),
      )
      .orderBy("delivery.next_attempt_at")
      .orderBy("delivery.sequence")
      .limit(limit)
      .execute();
    const claimed: DueDelivery[] = [];
    for (const { id, webhook_id: webhookId, body, url } of found) {
      if (claimed.filter((other) => other.webhookId === webhookId).length >= roomFor(webhookId)) continue;
      const { numUpdatedRows } = await this.#database
        .updateTable("webhook_deliveries")
        .set((delivery) => ({ claimed_until: now + claimMs, attempts: delivery("attempts", "+", 1) }))
        .where("id", "=", id)
        .where("status", "=", "pending")
        .where((delivery) => delivery.or([delivery("claimed_until", "is", null), delivery("claimed_until", "<=", now)]))
        .executeTakeFirst();
      if (numUpdatedRows === 1n) claimed.push({ id, webhookId, body, url });
    }
    return claimed;
  }

  /** Records the end of an attempt, and when the next one is due. Returns whether the delivery is given up. */
  async finish(id: string, outcome: Outcome, now: number): Promise<boolean> {
    const hasAnswer = "status" in outcome;
    const isDelivered = hasAnswer && outcome.status >= 200 && outcome.status < 300;
    return await inTransaction(this.#database, async (transaction) => {
      const row = await transaction
        .selectFrom("webhook_deliveries")
        .selectAll()
        .where("id", "=", id)
        .where("status", "=", "pending")
        .executeTakeFirst();
      // The webhook was deleted meanwhile, or another server took over after this one had stalled.
      if (row === undefined) return false;
      const isGivenUp = !isDelivered && now >= row.retry_until;
      const nextAttemptAt = now + pauseAfter(row.attempts);
      await transaction
        .updateTable("webhook_deliveries")
        .set({
          status: isDelivered ? "success" : isGivenUp ? "failed" : "pending",
          claimed_until: null,
          attempted_at: now,
          next_attempt_at: nextAttemptAt,
          response_status: hasAnswer ? outcome.status : null,
          error: isDelivered ? null : hasAnswer ? `the receiver answered with status ${outcome.status}` : outcome.error,
        })
        .where("id", "=", id)
        .execute();
      if (row.ordered === 1)
        await this.#moveFollowers(transaction, row, isDelivered || isGivenUp ? now : nextAttemptAt);
      return isGivenUp;
    });
  }

  /**
   * The later deliveries of the sandbox are due when this one has ended, and not before its next attempt. Their times
   * only keep them from being looked at too early; {@link claimDue} keeps the order.
   */
  async #moveFollowers(transaction: Transaction<Tables>, row: WebhookDeliveryRow, at: number): Promise<void> {
    await transaction
      .updateTable("webhook_deliveries")
      .set({ next_attempt_at: at })
      .where("webhook_id", "=", row.webhook_id)
      .where("sandbox_id", "=", row.sandbox_id)
      .where("status", "=", "pending")
      .where("ordered", "=", 1)
      .where("sequence", ">", row.sequence)
      .execute();
  }

  /** Gives back a claim whose attempt was interrupted by the end of this server: the next server makes it at once. */
  async release(id: string): Promise<void> {
    await this.#database
      .updateTable("webhook_deliveries")
      .set((delivery) => ({ claimed_until: null, attempts: delivery("attempts", "-", 1) }))
      .where("id", "=", id)
      .where("status", "=", "pending")
      .execute();
  }

  /** The newest deliveries of a webhook, newest first. */
  async list(webhookId: string, limit: number): Promise<readonly Delivery[]> {
    const rows = await this.#database
      .selectFrom("webhook_deliveries")
      .selectAll()
      .where("webhook_id", "=", webhookId)
      .orderBy("created_at", "desc")
      .orderBy("sequence", "desc")
      .limit(limit)
      .execute();
    return rows.map(deliveryOf);
  }

  /** @throws `not_found` */
  async get(webhookId: string, id: string): Promise<Delivery> {
    const row = await this.#database
      .selectFrom("webhook_deliveries")
      .selectAll()
      .where("webhook_id", "=", webhookId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined) throw deliveryNotFound(id);
    return deliveryOf(row);
  }

  /**
   * Sends a delivery again under the same id. A delivery that has ended does not delay later ones; a pending one keeps
   * its place and is attempted at once. @throws `not_found`
   */
  async redeliver(webhookId: string, id: string, now: number): Promise<void> {
    const { status } = await this.get(webhookId, id);
    const isPending = status === "pending";
    await this.#database
      .updateTable("webhook_deliveries")
      .set({
        status: "pending",
        next_attempt_at: now,
        retry_until: now + retryForMs,
        ...(isPending ? {} : { ordered: 0, attempts: 0, claimed_until: null }),
      })
      .where("id", "=", id)
      .execute();
  }
}

/** Whether the webhook's selection contains the event. */
export function wants({ eventTypes, sandboxId }: Webhook, event: Pick<SandboxEvent, "sandboxId" | "facts">): boolean {
  if (sandboxId !== undefined && sandboxId !== event.sandboxId) return false;
  const types = eventTypesFrom(eventTypes);
  return types === undefined || types.includes(event.facts.type);
}

/** The pause after this number of failed attempts, in milliseconds. */
function pauseAfter(attempts: number): number {
  return pausesMs[Math.min(attempts, pausesMs.length) - 1] ?? pausesMs[0]!;
}

interface NewDelivery {
  readonly webhookId: string;
  readonly event: SandboxEvent;
  readonly body: string;
  readonly isOrdered: boolean;
}

function deliveryRow({ webhookId, event, body, isOrdered }: NewDelivery, now: number): WebhookDeliveryRow {
  return {
    id: `msg_${randomHex(12)}`,
    webhook_id: webhookId,
    sandbox_id: event.sandboxId,
    event_id: event.id,
    event_type: event.facts.type,
    sequence: event.sequence,
    ordered: isOrdered ? 1 : 0,
    body,
    status: "pending",
    attempts: 0,
    next_attempt_at: now,
    retry_until: now + retryForMs,
    claimed_until: null,
    created_at: now,
    attempted_at: null,
    response_status: null,
    error: null,
  };
}

function deliveryOf(row: WebhookDeliveryRow): Delivery {
  return {
    id: row.id,
    webhookId: row.webhook_id,
    eventId: row.event_id,
    eventType: row.event_type,
    body: row.body,
    status: row.status,
    attempts: row.attempts,
    nextAttemptAt: row.status === "pending" ? new Date(row.next_attempt_at) : undefined,
    createdAt: new Date(row.created_at),
    attemptedAt: row.attempted_at === null ? undefined : new Date(row.attempted_at),
    responseStatus: row.response_status ?? undefined,
    error: row.error ?? undefined,
  };
}

function deliveryNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "delivery not found", { resource: "delivery", id });
}
