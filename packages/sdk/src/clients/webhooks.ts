import type { EventType } from "@opensandbox/wire/public/events.ts";
import {
  createWebhook,
  deleteWebhook,
  type DeliveredReply,
  type DeliveryReply,
  getDelivery,
  getWebhook,
  getWebhookSecret,
  listDeliveries,
  listWebhooks,
  redeliver,
  testWebhook,
  updateWebhook,
  type WebhookReply,
} from "@opensandbox/wire/public/webhooks.ts";
import type { HttpClient } from "#transport/http.ts";

/** A URL that events of sandboxes are sent to. */
export interface Webhook {
  readonly id: string;
  readonly name?: string;
  readonly url: string;
  /** Types of events, each exact or `prefix.*`. Empty: all. */
  readonly eventTypes: readonly string[];
  /** Absent: all sandboxes of the organization. */
  readonly sandboxId?: string;
  readonly enabled: boolean;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface CreateWebhook {
  readonly url: string;
  readonly name?: string;
  /** The signing secret. Default: a generated one. */
  readonly secret?: string;
  readonly eventTypes?: readonly string[];
  readonly sandboxId?: string;
  readonly enabled?: boolean;
}

export interface UpdateWebhook {
  readonly url?: string;
  /** null: no name. */
  readonly name?: string | null;
  /** null: all types. */
  readonly eventTypes?: readonly string[] | null;
  readonly enabled?: boolean;
  /** Makes a new signing secret. The earlier one also signs for 24 hours. */
  readonly rotateSecret?: boolean;
}

/** One event for one webhook. */
export interface WebhookDelivery {
  /** The `webhook-id` of its requests. */
  readonly id: string;
  readonly status: "success" | "pending" | "failed";
  readonly eventType: EventType;
  readonly eventId: string;
  readonly attempts: number;
  /** When the event happened. */
  readonly createdAt: string;
  readonly attemptedAt?: string | undefined;
  readonly nextAttemptAt?: string | undefined;
  /** The status of the last answer. */
  readonly responseStatus?: number | undefined;
  readonly error?: string | undefined;
}

export interface WebhooksClient {
  /** Adds a webhook and returns it with its signing secret. */
  create(request: CreateWebhook, signal?: AbortSignal): Promise<Webhook & { readonly secret: string }>;
  list(signal?: AbortSignal): Promise<readonly Webhook[]>;
  get(id: string, signal?: AbortSignal): Promise<Webhook>;
  /** Returns the new secret after a rotation. */
  update(id: string, changes: UpdateWebhook, signal?: AbortSignal): Promise<Webhook & { readonly secret?: string }>;
  delete(id: string, signal?: AbortSignal): Promise<void>;
  secret(id: string, signal?: AbortSignal): Promise<string>;
  /** Sends a sample event, and returns the id of its delivery. */
  test(id: string, signal?: AbortSignal): Promise<{ readonly eventType: EventType; readonly deliveryId: string }>;
  /** The newest 100 deliveries, newest first. */
  deliveries(id: string, signal?: AbortSignal): Promise<readonly WebhookDelivery[]>;
  /** A delivery with the body that was sent. */
  delivery(
    id: string,
    deliveryId: string,
    signal?: AbortSignal,
  ): Promise<WebhookDelivery & { readonly payload: object }>;
  /** Sends a delivery again, under the same id. */
  redeliver(id: string, deliveryId: string, signal?: AbortSignal): Promise<void>;
}

export function webhooksClient(http: HttpClient): WebhooksClient {
  return {
    async create({ eventTypes, ...request }, signal) {
      const body = { ...request, ...(eventTypes === undefined ? {} : { eventTypes: [...eventTypes] }) };
      const made = await http.call(createWebhook, { body, idempotent: true }, signal);
      return { ...webhookOf(made), secret: made.secret ?? "" };
    },
    async list(signal) {
      return (await http.call(listWebhooks, {}, signal)).data.map(webhookOf);
    },
    async get(webhookId, signal) {
      return webhookOf(await http.call(getWebhook, { parameters: { webhookId } }, signal));
    },
    async update(webhookId, { eventTypes, ...changes }, signal) {
      const types = eventTypes === undefined ? {} : { eventTypes: eventTypes && [...eventTypes] };
      const options = { parameters: { webhookId }, body: { ...changes, ...types } };
      const changed = await http.call(updateWebhook, options, signal);
      return { ...webhookOf(changed), ...(changed.secret === undefined ? {} : { secret: changed.secret }) };
    },
    async delete(webhookId, signal) {
      await http.call(deleteWebhook, { parameters: { webhookId } }, signal);
    },
    async secret(webhookId, signal) {
      return (await http.call(getWebhookSecret, { parameters: { webhookId } }, signal)).secret;
    },
    async test(webhookId, signal) {
      const { eventType, messageId } = await http.call(testWebhook, { parameters: { webhookId } }, signal);
      return { eventType, deliveryId: messageId };
    },
    async deliveries(webhookId, signal) {
      return (await http.call(listDeliveries, { parameters: { webhookId } }, signal)).data.map(deliveryOf);
    },
    async delivery(webhookId, deliveryId, signal) {
      const found: DeliveredReply = await http.call(getDelivery, { parameters: { webhookId, deliveryId } }, signal);
      return { ...deliveryOf(found), payload: found.payload };
    },
    async redeliver(webhookId, deliveryId, signal) {
      await http.call(redeliver, { parameters: { webhookId, deliveryId } }, signal);
    },
  };
}

function webhookOf({ id, name, url, eventTypes, sandboxId, enabled, createdAt, updatedAt }: WebhookReply): Webhook {
  return {
    ...{ id, url, eventTypes, enabled, createdAt, updatedAt },
    ...(name === null ? {} : { name }),
    ...(sandboxId === null ? {} : { sandboxId }),
  };
}

function deliveryOf(reply: DeliveryReply): WebhookDelivery {
  const { id, status, eventType, eventId, attempts, attemptedAt, nextAttemptAt, error } = reply;
  const { timestamp: createdAt, responseStatusCode: responseStatus } = reply;
  return { id, status, eventType, eventId, attempts, createdAt, attemptedAt, nextAttemptAt, responseStatus, error };
}
