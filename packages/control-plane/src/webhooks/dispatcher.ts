import { describeError } from "@opensandbox/wire/errors.ts";
import type { EventStore } from "#events/event-store.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { DeliveryStore, DueDelivery, Outcome } from "./delivery-store.ts";
import { signedHeaders } from "./signature.ts";
import type { WebhookStore } from "./webhook-store.ts";
import type { DeliveryRequest } from "./webhook.ts";

/** Attempts at once for one webhook, so that a slow receiver gets the events of several sandboxes in parallel. */
const maxAttempts = 4;
/** The same for a webhook whose last attempt failed: a dead receiver holds one connection. */
const maxFailingAttempts = 1;
/** Attempts at once for all webhooks together. Each holds a connection and the body of a delivery. */
const maxTotalAttempts = 200;
/** The longest time of one attempt, from the lookup of the name to the status of the answer, in milliseconds. */
const defaultAttemptMs = 15_000;

/**
 * How long recorded events wait for a round, in milliseconds, so that the operation that recorded them replies first.
 */
const soonMs = 10;

export interface DispatcherOptions {
  readonly webhooks: WebhookStore;
  readonly deliveries: DeliveryStore;
  readonly events: EventStore;
  readonly clock: Clock;
  readonly log: Log;
  /** Sends a request and returns the status of its answer. It rejects when no answer came. */
  readonly post: (request: DeliveryRequest) => Promise<number>;
  readonly attemptMs?: number | undefined;
}

/**
 * Delivers events to webhooks. A receiver that is slow or dead delays its own deliveries and nothing else. Every state is
 * in the rows, so that a delivery survives the end of the server. Disposing interrupts the attempts under way, which the
 * next server makes again.
 */
export class Dispatcher implements AsyncDisposable {
  readonly #options: DispatcherOptions;
  readonly #ending = new AbortController();
  /** Attempts under way, by webhook. */
  readonly #active = new Map<string, number>();
  readonly #attempts = new Set<Promise<void>>();
  /** Webhooks whose last attempt failed. */
  readonly #failing = new Set<string>();
  readonly #listening: Disposable;
  /** The round that recorded events have scheduled. */
  #soon: NodeJS.Timeout | undefined;
  #round: Promise<void> | undefined;
  /** Whether something happened since the current round looked for work. */
  #isStale = false;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    this.#listening = options.events.onRecorded(() => {
      this.#soon ??= setTimeout(() => {
        this.#soon = undefined;
        this.run();
      }, soonMs);
    });
  }

  /**
   * Starts a round, which attempts every due delivery. Returns at once. A call during a round starts another round
   * after it.
   */
  run(): void {
    this.#isStale = true;
    this.#round ??= this.#rounds()
      .catch((error: unknown) => {
        const { log } = this.#options;
        log("error", "cannot read the due webhook deliveries: the next round tries again", describeError(error));
      })
      .finally(() => {
        this.#round = undefined;
      });
  }

  /** Resolves when no attempt is under way and none is due. */
  async idle(): Promise<void> {
    while (this.#round !== undefined || this.#attempts.size > 0) {
      await this.#round;
      await Promise.all(this.#attempts);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listening[Symbol.dispose]();
    clearTimeout(this.#soon);
    this.#ending.abort(new Error("the server is shutting down"));
    await this.idle();
  }

  async #rounds(): Promise<void> {
    const { deliveries, clock } = this.#options;
    while (this.#isStale && !this.#ending.signal.aborted) {
      this.#isStale = false;
      while (await deliveries.fanOut(clock.now())) this.#ending.signal.throwIfAborted();
      while ((await this.#startAttempts()) > 0 && !this.#ending.signal.aborted);
    }
  }

  /** Begins attempts until the bounds are reached. Returns how many it began. */
  async #startAttempts(): Promise<number> {
    const { deliveries, clock } = this.#options;
    const room = maxTotalAttempts - this.#attempts.size;
    if (room <= 0) return 0;
    const busy = [...this.#active.keys()].filter((id) => this.#roomFor(id) <= 0);
    const options = { busy, limit: room, roomFor: (id: string) => this.#roomFor(id) };
    const claimed = await deliveries.claimDue(clock.now(), options);
    for (const delivery of claimed) {
      this.#active.set(delivery.webhookId, (this.#active.get(delivery.webhookId) ?? 0) + 1);
      const attempt: Promise<void> = this.#attempt(delivery).finally(() => {
        this.#attempts.delete(attempt);
        this.run();
      });
      this.#attempts.add(attempt);
    }
    return claimed.length;
  }

  /** How many more attempts for the webhook may begin. */
  #roomFor(webhookId: string): number {
    const max = this.#failing.has(webhookId) ? maxFailingAttempts : maxAttempts;
    return max - (this.#active.get(webhookId) ?? 0);
  }

  /** Never rejects. */
  async #attempt(delivery: DueDelivery): Promise<void> {
    const { deliveries, clock, log } = this.#options;
    const { id, webhookId } = delivery;
    try {
      const outcome = await this.#send(delivery);
      if (outcome === undefined) return await deliveries.release(id);
      const isDelivered = "status" in outcome && outcome.status >= 200 && outcome.status < 300;
      if (isDelivered) this.#failing.delete(webhookId);
      else this.#failing.add(webhookId);
      const isGivenUp = await deliveries.finish(id, outcome, clock.now());
      if (isGivenUp)
        log("warn", "gave up a webhook delivery after its last attempt", {
          webhook: webhookId,
          delivery: id,
          ...outcome,
        });
    } catch (error) {
      // When the claim runs out, the delivery is attempted again.
      log("error", "cannot record the result of a webhook delivery: it is sent again", {
        delivery: id,
        ...describeError(error),
      });
    } finally {
      const left = (this.#active.get(webhookId) ?? 1) - 1;
      if (left === 0) this.#active.delete(webhookId);
      else this.#active.set(webhookId, left);
    }
  }

  /** Undefined when the server shuts down. No error contains the URL, which may hold a token of the receiver. */
  async #send({ id, webhookId, body, url }: DueDelivery): Promise<Outcome | undefined> {
    const { webhooks, clock, post, attemptMs = defaultAttemptMs } = this.#options;
    const secrets = await webhooks.secrets(webhookId, clock.now());
    if (secrets === undefined) return { error: "the webhook was deleted" };
    const headers = {
      "content-type": "application/json",
      "user-agent": "OpenSandbox-Webhooks/1",
      ...signedHeaders({ id, body }, secrets, clock.now()),
    };
    const tooLate = AbortSignal.timeout(attemptMs);
    const signal = AbortSignal.any([this.#ending.signal, tooLate]);
    try {
      return { status: await post({ url, headers, body, signal }) };
    } catch (error) {
      if (this.#ending.signal.aborted) return undefined;
      if (tooLate.aborted) return { error: `no answer within ${attemptMs / 1000} seconds` };
      return { error: reasonOf(error).slice(0, 200) };
    }
  }
}

function reasonOf(error: unknown): string {
  // When several addresses fail, the error has no message of its own, but the first of its errors has.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  return first instanceof Error ? first.message : String(first);
}
