import { isIP } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import { type EventFacts, eventTypes, type EventType, eventTypesFrom } from "@opensandbox/wire/public/events.ts";
import { newEventId } from "#events/event-store.ts";
import type { SandboxStore } from "#sandboxes/sandbox-store.ts";
import type { Clock } from "../clock.ts";
import type { DeliveryStore } from "./delivery-store.ts";
import type { Dispatcher } from "./dispatcher.ts";
import { isPublicAddress } from "./public-address.ts";
import { newSecret } from "./signature.ts";
import type { Delivery, Webhook } from "./webhook.ts";
import type { WebhookChanges, WebhookStore } from "./webhook-store.ts";

/** How long the earlier secret also signs after a rotation, in milliseconds. */
const rolloverMs = 24 * 3_600_000;

/** How many deliveries a list shows. */
const maxListed = 100;

export interface NewWebhook {
  readonly name?: string | undefined;
  readonly url: string;
  readonly eventTypes: readonly string[];
  readonly sandboxId?: SandboxId | undefined;
  readonly enabled: boolean;
  /** Absent: a generated one. */
  readonly secret?: string | undefined;
}

export interface WebhooksOptions {
  readonly webhooks: WebhookStore;
  readonly deliveries: DeliveryStore;
  readonly sandboxes: Pick<SandboxStore, "get">;
  /** Absent: this server delivers nothing. */
  readonly dispatcher: Pick<Dispatcher, "run"> | undefined;
  /** Whether addresses beyond the public internet may be reached. */
  readonly allowsPrivate: boolean;
  readonly clock: Clock;
}

/** The use cases of webhooks. Each names its organization; a webhook of another one is `not_found`. */
export class Webhooks {
  readonly #options: WebhooksOptions;

  constructor(options: WebhooksOptions) {
    this.#options = options;
  }

  /** Adds a webhook, or returns the one that was made with the same idempotency key. */
  async create(
    organizationId: string,
    wanted: NewWebhook,
    idempotencyKey: string | undefined,
  ): Promise<{ readonly webhook: Webhook; readonly secret: string; readonly added: boolean }> {
    const { webhooks, sandboxes, clock } = this.#options;
    const { secret = newSecret(), sandboxId, ...properties } = wanted;
    this.#requireReachable(properties.url);
    if (sandboxId !== undefined) await sandboxes.get(organizationId, sandboxId);
    const now = new Date(clock.now());
    const webhook = {
      ...properties,
      id: `wh_${randomHex(8)}`,
      organizationId,
      sandboxId,
      createdAt: now,
      updatedAt: now,
    };
    const made = await webhooks.add(webhook, { secret, idempotencyKey });
    return { ...made, secret: await webhooks.secret(organizationId, made.webhook.id) };
  }

  async list(organizationId: string): Promise<readonly Webhook[]> {
    return await this.#options.webhooks.list(organizationId);
  }

  async get(organizationId: string, id: string): Promise<Webhook> {
    return await this.#options.webhooks.get(organizationId, id);
  }

  async secret(organizationId: string, id: string): Promise<string> {
    return await this.#options.webhooks.secret(organizationId, id);
  }

  /** Changes a webhook. Returns the new secret when it was rotated. */
  async update(
    organizationId: string,
    id: string,
    { rotateSecret, ...changes }: WebhookChanges & { readonly rotateSecret: boolean },
  ): Promise<{ readonly webhook: Webhook; readonly secret?: string }> {
    const { webhooks, dispatcher, clock } = this.#options;
    if (changes.url !== undefined) this.#requireReachable(changes.url);
    const now = clock.now();
    const webhook = await webhooks.update(organizationId, id, changes, new Date(now));
    dispatcher?.run();
    if (!rotateSecret) return { webhook };
    const secret = newSecret();
    await webhooks.rotateSecret(id, secret, new Date(now + rolloverMs));
    return { webhook, secret };
  }

  async remove(organizationId: string, id: string): Promise<void> {
    await this.#options.webhooks.remove(organizationId, id);
  }

  /** Sends a sample event of a type that the webhook receives. */
  async test(
    organizationId: string,
    id: string,
  ): Promise<{ readonly eventType: EventType; readonly deliveryId: string }> {
    const { webhooks, deliveries, dispatcher, clock } = this.#options;
    const webhook = await webhooks.get(organizationId, id);
    const facts = sampleFor(webhook);
    const now = clock.now();
    const event = {
      sequence: 0,
      id: newEventId(),
      organizationId,
      sandboxId: webhook.sandboxId ?? ("sb-0000000000000000" as SandboxId),
      createdAt: new Date(now),
      facts,
    };
    const deliveryId = await deliveries.addTest(id, event, now);
    dispatcher?.run();
    return { eventType: facts.type, deliveryId };
  }

  async deliveries(organizationId: string, id: string): Promise<readonly Delivery[]> {
    await this.#options.webhooks.get(organizationId, id);
    return await this.#options.deliveries.list(id, maxListed);
  }

  async delivery(organizationId: string, id: string, deliveryId: string): Promise<Delivery> {
    await this.#options.webhooks.get(organizationId, id);
    return await this.#options.deliveries.get(id, deliveryId);
  }

  async redeliver(organizationId: string, id: string, deliveryId: string): Promise<void> {
    const { webhooks, deliveries, dispatcher, clock } = this.#options;
    await webhooks.get(organizationId, id);
    await deliveries.redeliver(id, deliveryId, clock.now());
    dispatcher?.run();
  }

  /**
   * Refuses a URL with a fixed address that is not allowed. The address of a name may change, so each attempt checks
   * it. @throws `invalid_argument`
   */
  #requireReachable(url: string): void {
    const hostname = new URL(url).hostname.replace(/^\[|\]$/g, "");
    if (this.#options.allowsPrivate || isIP(hostname) === 0 || isPublicAddress(hostname)) return;
    throw new SandboxError("invalid_argument", `url: ${hostname} is not a public address`);
  }
}

const samples: readonly EventFacts[] = [
  { type: "sandbox.test", data: {} },
  { type: "sandbox.created", data: { image: "default" } },
  { type: "sandbox.ready", data: {} },
  { type: "sandbox.hibernated", data: {} },
  { type: "sandbox.resumed", data: {} },
  { type: "sandbox.stopped", data: { reason: "user_requested" } },
  { type: "sandbox.checkpoint.created", data: { checkpointId: "00000000-0000-4000-8000-000000000000" } },
  { type: "sandbox.forked", data: { parentId: "sb-0000000000000000" } },
  { type: "sandbox.scaled", data: { vcpus: 1, memoryMib: 1024 } },
  { type: "sandbox.preview_url.changed", data: { port: 3000 } },
];

/** `sandbox.test` unless the webhook selects other types only. */
function sampleFor({ eventTypes: patterns }: Webhook): EventFacts {
  const types: readonly EventType[] = eventTypesFrom(patterns) ?? eventTypes;
  return samples.find(({ type }) => types.includes(type)) ?? { type: "sandbox.test", data: {} };
}
