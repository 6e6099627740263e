import { z } from "zod";
import { parseSandboxId, type SandboxId } from "../ids.ts";
import type { Route } from "../route.ts";
import { EventReply, eventTypes, eventTypesFrom, type EventType } from "./events.ts";

const urlRule = "url must be an http or https URL without a user name";

const url = z
  .string(urlRule)
  .max(2000, "url must have at most 2000 characters")
  .refine((text) => {
    if (!URL.canParse(text)) return false;
    const { protocol, username, password } = new URL(text);
    return (protocol === "https:" || protocol === "http:") && username === "" && password === "";
  }, urlRule)
  .meta({ description: "The URL that events are sent to. Its host must have a public address." });

const name = z.string().max(255, "name must have at most 255 characters");

const types = z
  .array(z.string())
  .max(50, "eventTypes must have at most 50 entries")
  .meta({ description: `Types of events, each exact or \`prefix.*\`; empty: all. Types: ${eventTypes.join(", ")}.` });

const CreateWebhookBody = z
  .object({
    url,
    name: name.optional(),
    secret: z
      .string()
      .regex(/^[\x21-\x7e]{8,512}$/, "secret must have 8 to 512 visible ASCII characters")
      .optional()
      .meta({ description: "The signing secret, preferably `whsec_` and base64. Default: a generated one." }),
    eventTypes: types.optional(),
    sandboxId: z.string().optional().meta({ description: "Only events of this sandbox. It cannot be changed later." }),
    enabled: z.boolean().optional(),
  })
  .meta({ id: "CreateWebhook" });
type CreateWebhookBody = z.infer<typeof CreateWebhookBody>;

const UpdateWebhookBody = z
  .object({
    url: url.optional(),
    name: name.nullable().optional(),
    eventTypes: types.nullable().optional().meta({ description: "null: all types." }),
    enabled: z.boolean().optional().meta({ description: "Events that happen while it is false are not delivered." }),
    rotateSecret: z
      .boolean()
      .optional()
      .meta({ description: "Make a new signing secret. The earlier one also signs for 24 hours." }),
  })
  .meta({ id: "UpdateWebhook" });
type UpdateWebhookBody = z.infer<typeof UpdateWebhookBody>;

const WebhookReply = z
  .object({
    id: z.string(),
    name: z.string().nullable(),
    url: z.string(),
    eventTypes: z.array(z.string()),
    sandboxId: z.string().nullable(),
    enabled: z.boolean(),
    hasSecret: z.literal(true),
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
    secret: z.string().optional().meta({ description: "After a create and after a rotation." }),
  })
  .meta({ id: "Webhook" });
export type WebhookReply = z.infer<typeof WebhookReply>;

export const createWebhook: Route<CreateWebhookBody, unknown, WebhookReply> = {
  method: "POST",
  path: "/api/webhooks",
  name: "createWebhook",
  summary: "Create a webhook: events of sandboxes are sent to a URL",
  description:
    "Each event is a POST of JSON `{type, sandboxId, eventId, event}`, signed as https://www.standardwebhooks.com " +
    "describes, with the headers `webhook-id`, `webhook-timestamp`, `webhook-signature` and the same with `svix-`. A 2xx " +
    "answer within 15 seconds accepts it. Otherwise it is sent again for 24 hours, at growing intervals of up to an hour; " +
    "later events of the same sandbox wait meanwhile. `webhook-id` stays the same, so that a receiver recognises a " +
    "repetition. Redirects are not followed. With `Idempotency-Key` a repeated create returns the same webhook. An " +
    "organization has at most 50.",
  access: "key",
  body: CreateWebhookBody,
  status: 201,
  reply: WebhookReply,
  otherReplies: {
    200: {
      description: "The idempotency key was used before. The reply is the webhook of that request.",
      reply: WebhookReply,
    },
  },
};

const WebhooksReply = z.object({ data: z.array(WebhookReply) }).meta({ id: "Webhooks" });

export const listWebhooks: Route<unknown, unknown, z.infer<typeof WebhooksReply>> = {
  method: "GET",
  path: "/api/webhooks",
  name: "listWebhooks",
  summary: "List webhooks, oldest first",
  access: "key",
  status: 200,
  reply: WebhooksReply,
};

export const getWebhook: Route<unknown, unknown, WebhookReply> = {
  method: "GET",
  path: "/api/webhooks/:webhookId",
  name: "getWebhook",
  summary: "Get a webhook",
  access: "key",
  status: 200,
  reply: WebhookReply,
};

export const updateWebhook: Route<UpdateWebhookBody, unknown, WebhookReply> = {
  method: "PATCH",
  path: "/api/webhooks/:webhookId",
  name: "updateWebhook",
  summary: "Change a webhook, or rotate its secret",
  access: "key",
  // Not an object schema: `parse` would take null for an absent field, and here it clears the field.
  body: UpdateWebhookBody.transform((body) => body),
  status: 200,
  reply: WebhookReply,
};

export const deleteWebhook: Route = {
  method: "DELETE",
  path: "/api/webhooks/:webhookId",
  name: "deleteWebhook",
  summary: "Delete a webhook with its deliveries",
  access: "key",
  status: 204,
};

const SecretReply = z.object({ secret: z.string() }).meta({ id: "WebhookSecret" });

export const getWebhookSecret: Route<unknown, unknown, z.infer<typeof SecretReply>> = {
  method: "GET",
  path: "/api/webhooks/:webhookId/secret",
  name: "getWebhookSecret",
  summary: "Get a webhook's signing secret",
  access: "key",
  status: 200,
  reply: SecretReply,
};

const TestReply = z
  .object({ ok: z.literal(true), eventType: z.enum(eventTypes), messageId: z.string() })
  .meta({ id: "WebhookTest" });

export const testWebhook: Route<unknown, unknown, z.infer<typeof TestReply>> = {
  method: "POST",
  path: "/api/webhooks/:webhookId/test",
  name: "testWebhook",
  summary: "Send a sample event of a type that the webhook receives",
  description: "`messageId` names its delivery, which says later how it ended. A disabled webhook receives it too.",
  access: "key",
  status: 200,
  reply: TestReply,
};

const DeliveryReply = z
  .object({
    id: z.string(),
    status: z.enum(["success", "pending", "failed"]),
    eventType: z.enum(eventTypes),
    eventId: z.string(),
    attempts: z.int(),
    timestamp: z.iso.datetime().meta({ description: "When the event happened." }),
    attemptedAt: z.iso.datetime().optional().meta({ description: "When the last attempt ended." }),
    nextAttemptAt: z.iso.datetime().optional().meta({ description: "The earliest time of the next attempt." }),
    responseStatusCode: z
      .int()
      .optional()
      .meta({ description: "The status of the last attempt's answer, if it had one." }),
    error: z.string().optional().meta({ description: "Why the last attempt failed." }),
  })
  .meta({ id: "WebhookDelivery" });
export type DeliveryReply = z.infer<typeof DeliveryReply>;

const DeliveriesReply = z.object({ data: z.array(DeliveryReply) }).meta({ id: "WebhookDeliveries" });

export const listDeliveries: Route<unknown, unknown, z.infer<typeof DeliveriesReply>> = {
  method: "GET",
  path: "/api/webhooks/:webhookId/deliveries",
  name: "listDeliveries",
  summary: "List the newest 100 deliveries of a webhook, newest first",
  access: "key",
  status: 200,
  reply: DeliveriesReply,
};

const Payload = z
  .object({ type: z.enum(eventTypes), sandboxId: z.string(), eventId: z.string(), event: EventReply })
  .meta({ id: "WebhookPayload" });

const DeliveredReply = DeliveryReply.extend({
  payload: Payload.meta({ description: "The body that was sent." }),
}).meta({ id: "DeliveredEvent" });
export type DeliveredReply = z.infer<typeof DeliveredReply>;

export const getDelivery: Route<unknown, unknown, DeliveredReply> = {
  method: "GET",
  path: "/api/webhooks/:webhookId/deliveries/:deliveryId",
  name: "getDelivery",
  summary: "Get a delivery with the body that was sent",
  access: "key",
  status: 200,
  reply: DeliveredReply,
};

const RedeliverReply = z.object({ ok: z.literal(true) }).meta({ id: "Redelivered" });

export const redeliver: Route<unknown, unknown, z.infer<typeof RedeliverReply>> = {
  method: "POST",
  path: "/api/webhooks/:webhookId/deliveries/:deliveryId/redeliver",
  name: "redeliver",
  summary: "Send a delivery again, under the same id",
  access: "key",
  status: 200,
  reply: RedeliverReply,
};

/** The webhook that a create asks for. @throws `invalid_argument` for unknown types */
export function newWebhookFrom({ sandboxId, eventTypes: patterns = [], enabled = true, ...body }: CreateWebhookBody): {
  readonly url: string;
  readonly name?: string | undefined;
  readonly secret?: string | undefined;
  readonly eventTypes: readonly string[];
  readonly sandboxId: SandboxId | undefined;
  readonly enabled: boolean;
} {
  eventTypesFrom(patterns);
  const sandbox = sandboxId === undefined ? undefined : parseSandboxId(sandboxId);
  return { ...body, eventTypes: patterns, sandboxId: sandbox, enabled };
}

/** The changes that an update asks for. @throws `invalid_argument` for unknown types */
export function webhookChangesFrom(body: UpdateWebhookBody): {
  readonly url?: string;
  readonly name?: string | undefined;
  readonly eventTypes?: readonly string[];
  readonly enabled?: boolean;
  readonly rotateSecret: boolean;
} {
  const { url: address, name: title, eventTypes: patterns, enabled, rotateSecret = false } = body;
  eventTypesFrom(patterns ?? []);
  return {
    rotateSecret,
    ...(address === undefined ? {} : { url: address }),
    ...(title === undefined ? {} : { name: title ?? undefined }),
    ...(patterns === undefined ? {} : { eventTypes: patterns ?? [] }),
    ...(enabled === undefined ? {} : { enabled }),
  };
}

interface WebhookToShow {
  readonly id: string;
  readonly name?: string | undefined;
  readonly url: string;
  readonly eventTypes: readonly string[];
  readonly sandboxId?: string | undefined;
  readonly enabled: boolean;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** @param secret the plain text, for the replies that carry it */
export function webhookReplyOf(webhook: WebhookToShow, secret?: string): WebhookReply {
  return {
    id: webhook.id,
    name: webhook.name ?? null,
    url: webhook.url,
    eventTypes: [...webhook.eventTypes],
    sandboxId: webhook.sandboxId ?? null,
    enabled: webhook.enabled,
    hasSecret: true,
    createdAt: webhook.createdAt.toISOString(),
    updatedAt: webhook.updatedAt.toISOString(),
    ...(secret === undefined ? {} : { secret }),
  };
}

interface DeliveryToShow {
  readonly id: string;
  readonly status: "pending" | "success" | "failed";
  readonly eventType: EventType;
  readonly eventId: string;
  readonly attempts: number;
  readonly body: string;
  readonly createdAt: Date;
  readonly attemptedAt?: Date | undefined;
  readonly nextAttemptAt?: Date | undefined;
  readonly responseStatus?: number | undefined;
  readonly error?: string | undefined;
}

export function deliveryReplyOf(delivery: DeliveryToShow): DeliveryReply {
  const { id, status, eventType, eventId, attempts, createdAt, attemptedAt, nextAttemptAt } = delivery;
  return {
    ...{ id, status, eventType, eventId, attempts, timestamp: createdAt.toISOString() },
    ...(attemptedAt === undefined ? {} : { attemptedAt: attemptedAt.toISOString() }),
    ...(nextAttemptAt === undefined ? {} : { nextAttemptAt: nextAttemptAt.toISOString() }),
    ...(delivery.responseStatus === undefined ? {} : { responseStatusCode: delivery.responseStatus }),
    ...(delivery.error === undefined ? {} : { error: delivery.error }),
  };
}

export function deliveredReplyOf(delivery: DeliveryToShow): DeliveredReply {
  return { ...deliveryReplyOf(delivery), payload: JSON.parse(delivery.body) as z.infer<typeof Payload> };
}

/** The body of a delivery, as the published clients' `verifyWebhook` returns it. */
export function deliveryBodyOf(event: EventReply): string {
  const { type, sandboxId, id } = event;
  return JSON.stringify({ type, sandboxId, eventId: id, event } satisfies z.infer<typeof Payload>);
}
