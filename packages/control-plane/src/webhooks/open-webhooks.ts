import { eventReplyOf } from "@opensandbox/wire/public/events.ts";
import { deliveryBodyOf } from "@opensandbox/wire/public/webhooks.ts";
import type { Database } from "#database/database.ts";
import { serverKey } from "#database/server-key.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { DeliveryStore } from "./delivery-store.ts";
import { Dispatcher, type DispatcherOptions } from "./dispatcher.ts";
import { WebhookStore } from "./webhook-store.ts";
import { Webhooks } from "./webhooks.ts";

/** How often due deliveries are read. Events of this process are delivered at once. */
const roundMs = 1000;

export interface OpenWebhooks {
  readonly database: Database;
  readonly sandboxDomain: string;
  /** Whether addresses beyond the public internet may be reached. */
  readonly allowsPrivate: boolean;
  readonly post: DispatcherOptions["post"];
}

/** Opens the use cases of webhooks, and delivers events until disposed. A server for one command delivers nothing. */
export async function openWebhooks(
  { stores, clock, log, settings }: SandboxContext,
  { database, sandboxDomain, allowsPrivate, post }: OpenWebhooks,
): Promise<{ readonly webhooks: Webhooks } & AsyncDisposable> {
  const { events, sandboxes } = stores;
  const webhooks = new WebhookStore(database, await serverKey(database, "webhook secrets"));
  const deliveries = new DeliveryStore(database, (event) => deliveryBodyOf(eventReplyOf(event, sandboxDomain)));
  const options = { webhooks, deliveries, events, clock, log, post };
  const dispatcher = settings.ephemeral ? undefined : new Dispatcher(options);
  const rounds = setInterval(() => dispatcher?.run(), roundMs);
  return {
    webhooks: new Webhooks({ webhooks, deliveries, sandboxes, dispatcher, allowsPrivate, clock }),
    async [Symbol.asyncDispose]() {
      clearInterval(rounds);
      await dispatcher?.[Symbol.asyncDispose]();
    },
  };
}
