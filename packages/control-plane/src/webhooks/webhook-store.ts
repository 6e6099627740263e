import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Database } from "#database/database.ts";
import { inTransaction } from "#database/transaction.ts";
import { openText, sealText } from "#database/sealed-text.ts";
import type { WebhookRow } from "#database/tables.ts";
import { headOf } from "#events/event-store.ts";
import type { Webhook, WebhookSecrets } from "./webhook.ts";

/** How many webhooks an organization may have. */
const maxWebhooks = 50;

/** The properties of a webhook that may change. A name of `undefined` is cleared. */
export interface WebhookChanges {
  readonly name?: string | undefined;
  readonly url?: string;
  readonly eventTypes?: readonly string[];
  readonly enabled?: boolean;
}

/** The rows of webhooks. Their secrets are encrypted with a key of the database. */
export class WebhookStore {
  readonly #database: Database;
  readonly #key: string;

  /** @param key 256 bits, hexadecimal */
  constructor(database: Database, key: string) {
    this.#database = database;
    this.#key = key;
  }

  /**
   * Adds a webhook, or returns the one that was made with the same idempotency key.
   * @throws `quota_exceeded` when the organization has too many
   */
  async add(
    webhook: Webhook,
    { secret, idempotencyKey }: { readonly secret: string; readonly idempotencyKey: string | undefined },
  ): Promise<{ readonly webhook: Webhook; readonly added: boolean }> {
    const { id, organizationId } = webhook;
    return await inTransaction(this.#database, async (transaction) => {
      const rows = await transaction
        .selectFrom("webhooks")
        .selectAll()
        .where("organization_id", "=", organizationId)
        .execute();
      const earlier = rows.find((row) => idempotencyKey !== undefined && row.idempotency_key === idempotencyKey);
      if (earlier !== undefined) return { webhook: webhookOf(earlier), added: false };
      if (rows.length >= maxWebhooks) {
        throw new SandboxError(
          "quota_exceeded",
          `an organization has at most ${maxWebhooks} webhooks: delete one first`,
        );
      }
      await transaction
        .insertInto("webhooks")
        .values({
          id,
          organization_id: organizationId,
          name: webhook.name ?? null,
          url: webhook.url,
          event_types: JSON.stringify(webhook.eventTypes),
          sandbox_id: webhook.sandboxId ?? null,
          enabled: webhook.enabled ? 1 : 0,
          secret: sealText(secret, this.#key, id),
          previous_secret: null,
          previous_secret_until: null,
          idempotency_key: idempotencyKey ?? null,
          from_sequence: await headOf(transaction),
          created_at: webhook.createdAt.getTime(),
          updated_at: webhook.updatedAt.getTime(),
        })
        .execute();
      return { webhook, added: true };
    });
  }

  /** The webhooks of an organization, oldest first. */
  async list(organizationId: string): Promise<readonly Webhook[]> {
    const rows = await this.#database
      .selectFrom("webhooks")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(webhookOf);
  }

  /** @throws `not_found`, also when the webhook belongs to another organization */
  async get(organizationId: string, id: string): Promise<Webhook> {
    return webhookOf(await this.#row(organizationId, id));
  }

  /** @throws `not_found` */
  async secret(organizationId: string, id: string): Promise<string> {
    const row = await this.#row(organizationId, id);
    return openText(row.secret, this.#key, id);
  }

  /** The secrets that sign at this time; undefined when the webhook was deleted. */
  async secrets(id: string, now: number): Promise<WebhookSecrets | undefined> {
    const row = await this.#database
      .selectFrom("webhooks")
      .select(["secret", "previous_secret", "previous_secret_until"])
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { secret, previous_secret: previous, previous_secret_until: until } = row;
    const isValid = previous !== null && until !== null && now < until;
    const current = openText(secret, this.#key, id);
    return isValid ? { current, previous: openText(previous, this.#key, id) } : { current };
  }

  /** Changes a webhook. A webhook that is enabled again receives only the events from then on. @throws `not_found` */
  async update(organizationId: string, id: string, changes: WebhookChanges, now: Date): Promise<Webhook> {
    return await inTransaction(this.#database, async (transaction) => {
      const before = await transaction
        .selectFrom("webhooks")
        .select("enabled")
        .where("organization_id", "=", organizationId)
        .where("id", "=", id)
        .executeTakeFirst();
      if (before === undefined) throw webhookNotFound(id);
      const isEnabledAgain = changes.enabled === true && before.enabled === 0;
      const row = await transaction
        .updateTable("webhooks")
        .set({
          updated_at: now.getTime(),
          ...("name" in changes ? { name: changes.name ?? null } : {}),
          ...(changes.url === undefined ? {} : { url: changes.url }),
          ...(changes.eventTypes === undefined ? {} : { event_types: JSON.stringify(changes.eventTypes) }),
          ...(changes.enabled === undefined ? {} : { enabled: changes.enabled ? 1 : 0 }),
          ...(isEnabledAgain ? { from_sequence: await headOf(transaction) } : {}),
        })
        .where("id", "=", id)
        .returningAll()
        .executeTakeFirstOrThrow();
      return webhookOf(row);
    });
  }

  /** Replaces the secret. The earlier one also signs until the given time. */
  async rotateSecret(id: string, secret: string, previousUntil: Date): Promise<void> {
    await this.#database
      .updateTable("webhooks")
      .set((row) => ({
        secret: sealText(secret, this.#key, id),
        previous_secret: row.ref("secret"),
        previous_secret_until: previousUntil.getTime(),
      }))
      .where("id", "=", id)
      .execute();
  }

  /** Removes a webhook with its deliveries. @throws `not_found` */
  async remove(organizationId: string, id: string): Promise<void> {
    await inTransaction(this.#database, async (transaction) => {
      const { numDeletedRows } = await transaction
        .deleteFrom("webhooks")
        .where("organization_id", "=", organizationId)
        .where("id", "=", id)
        .executeTakeFirst();
      if (numDeletedRows === 0n) throw webhookNotFound(id);
      await transaction.deleteFrom("webhook_deliveries").where("webhook_id", "=", id).execute();
    });
  }

  async #row(organizationId: string, id: string): Promise<WebhookRow> {
    const row = await this.#database
      .selectFrom("webhooks")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined) throw webhookNotFound(id);
    return row;
  }
}

export function webhookOf(row: WebhookRow): Webhook {
  return {
    id: row.id,
    organizationId: row.organization_id,
    name: row.name ?? undefined,
    url: row.url,
    eventTypes: JSON.parse(row.event_types) as readonly string[],
    sandboxId: (row.sandbox_id ?? undefined) as SandboxId | undefined,
    enabled: row.enabled !== 0,
    createdAt: new Date(row.created_at),
    updatedAt: new Date(row.updated_at),
  };
}

function webhookNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "webhook not found", { resource: "webhook", id });
}
