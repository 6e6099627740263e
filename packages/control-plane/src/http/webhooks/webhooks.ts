import * as wire from "@opensandbox/wire/public/webhooks.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { idempotencyKeyOf } from "../requests/idempotency-key.ts";
import { serve } from "../serve.ts";

export function serveWebhooks(app: FastifyInstance, { sandboxes, webhooks }: ApiContext): void {
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.createWebhook, async ({ organizationId, body, request, reply }) => {
    const wanted = wire.newWebhookFrom(body);
    const { webhook, secret, added } = await webhooks.create(organizationId, wanted, idempotencyKeyOf(request));
    reply.status(added ? 201 : 200);
    return wire.webhookReplyOf(webhook, secret);
  });

  serve(app, ending, wire.listWebhooks, async ({ organizationId }) => {
    return { data: (await webhooks.list(organizationId)).map((webhook) => wire.webhookReplyOf(webhook)) };
  });

  serve(app, ending, wire.getWebhook, async ({ organizationId, parameter }) => {
    return wire.webhookReplyOf(await webhooks.get(organizationId, parameter("webhookId")));
  });

  serve(app, ending, wire.updateWebhook, async ({ organizationId, parameter, body }) => {
    const changes = wire.webhookChangesFrom(body);
    const { webhook, secret } = await webhooks.update(organizationId, parameter("webhookId"), changes);
    return wire.webhookReplyOf(webhook, secret);
  });

  serve(app, ending, wire.deleteWebhook, async ({ organizationId, parameter }) => {
    await webhooks.remove(organizationId, parameter("webhookId"));
  });

  serve(app, ending, wire.getWebhookSecret, async ({ organizationId, parameter }) => {
    return { secret: await webhooks.secret(organizationId, parameter("webhookId")) };
  });

  serve(app, ending, wire.testWebhook, async ({ organizationId, parameter }) => {
    const { eventType, deliveryId } = await webhooks.test(organizationId, parameter("webhookId"));
    return { ok: true, eventType, messageId: deliveryId };
  });

  serve(app, ending, wire.listDeliveries, async ({ organizationId, parameter }) => {
    const deliveries = await webhooks.deliveries(organizationId, parameter("webhookId"));
    return { data: deliveries.map(wire.deliveryReplyOf) };
  });

  serve(app, ending, wire.getDelivery, async ({ organizationId, parameter }) => {
    const found = await webhooks.delivery(organizationId, parameter("webhookId"), parameter("deliveryId"));
    return wire.deliveredReplyOf(found);
  });

  serve(app, ending, wire.redeliver, async ({ organizationId, parameter }) => {
    await webhooks.redeliver(organizationId, parameter("webhookId"), parameter("deliveryId"));
    return { ok: true };
  });
}
