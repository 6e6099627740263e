import type { EventType } from "@opensandbox/wire/public/events.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** A destination that events are delivered to. */
export interface Webhook {
  readonly id: string;
  readonly organizationId: string;
  readonly name?: string | undefined;
  readonly url: string;
  /** Types and `prefix.*` patterns. Empty: all. */
  readonly eventTypes: readonly string[];
  /** Absent: all sandboxes of the organization. */
  readonly sandboxId?: SandboxId | undefined;
  readonly enabled: boolean;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** The signing secrets of a webhook, as plain text. */
export interface WebhookSecrets {
  readonly current: string;
  /** The secret before the last rotation, while receivers may still use it. */
  readonly previous?: string | undefined;
}

/** One event for one webhook. */
export interface Delivery {
  /** The same in every attempt, so receivers recognise a repeated delivery. */
  readonly id: string;
  readonly webhookId: string;
  readonly eventId: string;
  readonly eventType: EventType;
  /** The body of the request, the same in every attempt. */
  readonly body: string;
  readonly status: "pending" | "success" | "failed";
  readonly attempts: number;
  /** Absent: it has ended. */
  readonly nextAttemptAt?: Date | undefined;
  readonly createdAt: Date;
  readonly attemptedAt?: Date | undefined;
  /** The status of the last attempt's answer, if it had one. */
  readonly responseStatus?: number | undefined;
  /** Why the last attempt failed. */
  readonly error?: string | undefined;
}

/** One request to a receiver. */
export interface DeliveryRequest {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Aborts the attempt. */
  readonly signal: AbortSignal;
}
