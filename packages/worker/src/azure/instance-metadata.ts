import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The service that answers every virtual machine of Azure about itself, at an address that leaves no host. */
export const metadataEndpoint = "http://169.254.169.254";

/** A token of the machine's managed identity. */
export interface IdentityToken {
  readonly value: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

const eventTypes = ["Freeze", "Reboot", "Redeploy", "Preempt", "Terminate"] as const;

/** An event that Azure has announced for a machine. */
export interface ScheduledEvent {
  readonly id: string;
  /** `Freeze` lasts seconds; the others stop the machine, and the last two remove it. */
  readonly type: (typeof eventTypes)[number];
  /** The names of the machines that it concerns. */
  readonly machines: readonly string[];
  /** `Started`: the event is happening. */
  readonly status: "Scheduled" | "Started";
  /** Azure does not begin before. Milliseconds since 1970; absent once it has begun. */
  readonly notBefore?: number;
}

/** The replies of the service, of which every field may be absent. */
interface Replies {
  readonly token: { readonly access_token?: string; readonly expires_on?: string };
  readonly machine: { readonly name?: string };
  readonly events: { readonly Events?: readonly ShownEvent[] };
}

interface ShownEvent {
  readonly EventId?: string;
  readonly EventType?: string;
  readonly Resources?: readonly string[];
  readonly EventStatus?: string;
  readonly NotBefore?: string;
}

/** One request. The first question about events turns their announcement on, which takes Azure up to two minutes. */
const requestMs = 130_000;
const attempts = 5;
const pauseMs = 1000;

/** The instance metadata service of Azure. https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service */
export class InstanceMetadata {
  readonly #endpoint: string;
  readonly #pauseMs: number;

  /** @param options `pauseMs`: the wait before another attempt, which doubles */
  constructor(endpoint: string = metadataEndpoint, options: { readonly pauseMs: number } = { pauseMs }) {
    this.#endpoint = endpoint;
    this.#pauseMs = options.pauseMs;
  }

  /**
   * @param resource the service that accepts the token, such as https://vault.azure.net
   * @throws `unavailable` when the service does not answer or the machine has no identity
   */
  async token(resource: string, signal: AbortSignal): Promise<IdentityToken> {
    const query = `api-version=2018-02-01&resource=${encodeURIComponent(resource)}`;
    const reply = (await this.#ask(`identity/oauth2/token?${query}`, signal)) as Replies["token"];
    const { access_token: value, expires_on: seconds } = reply;
    if (value === undefined || !(Number(seconds) > 0)) throw unknownAnswer(reply);
    return { value, expiresAt: Number(seconds) * 1000 };
  }

  /** The name of this machine in scheduled events. @throws `unavailable` */
  async machineName(signal: AbortSignal): Promise<string> {
    const reply = (await this.#ask("instance/compute?api-version=2021-02-01", signal)) as Replies["machine"];
    if (reply.name === undefined) throw unknownAnswer(reply);
    return reply.name;
  }

  /** The announced events of this machine and of others with which Azure plans it. @throws `unavailable` */
  async scheduledEvents(signal: AbortSignal): Promise<readonly ScheduledEvent[]> {
    const reply = (await this.#ask("scheduledevents?api-version=2020-07-01", signal)) as Replies["events"];
    if (reply.Events === undefined) throw unknownAnswer(reply);
    return reply.Events.map(eventOf);
  }

  /** Lets Azure begin an event at once. @throws `unavailable` */
  async approve(id: string, signal: AbortSignal): Promise<void> {
    await this.#ask("scheduledevents?api-version=2020-07-01", signal, { StartRequests: [{ EventId: id }] });
  }

  async #ask(path: string, signal: AbortSignal, body?: object): Promise<unknown> {
    const url = `${this.#endpoint}/metadata/${path}`;
    const init = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    for (let attempt = 1; ; attempt += 1) {
      let problem: string;
      try {
        const deadline = AbortSignal.any([signal, AbortSignal.timeout(requestMs)]);
        // Without this header, the service refuses the request: a redirected client does not send it.
        const response = await fetch(url, {
          ...init,
          headers: { Metadata: "true" },
          signal: deadline,
          redirect: "error",
        });
        const text = await response.text();
        if (response.ok) return text === "" ? undefined : JSON.parse(text);
        problem = `it answered with ${response.status}: ${text.slice(0, 300)}`;
        if (response.status < 500 && ![404, 410, 429].includes(response.status)) throw unavailable(url, problem);
      } catch (cause) {
        signal.throwIfAborted();
        if (cause instanceof SandboxError) throw cause;
        problem = (cause as Error).message;
      }
      if (attempt === attempts) throw unavailable(url, problem);
      await sleep(this.#pauseMs * 2 ** (attempt - 1), undefined, { signal });
    }
  }
}

function eventOf(shown: ShownEvent): ScheduledEvent {
  const { EventId: id, EventType, Resources: machines = [], EventStatus: status, NotBefore: text = "" } = shown;
  const type = eventTypes.find((known) => known === EventType);
  if (id === undefined || type === undefined || (status !== "Scheduled" && status !== "Started"))
    throw unknownAnswer(shown);
  const notBefore = Date.parse(text);
  return { id, type, machines, status, ...(Number.isNaN(notBefore) ? {} : { notBefore }) };
}

function unknownAnswer(reply: object): SandboxError {
  // A token is never in an answer that lacks its fields.
  const names = Object.keys(reply).join(", ");
  return new SandboxError(
    "unavailable",
    `the instance metadata service gave an unknown answer, with the fields: ${names}`,
  );
}

function unavailable(url: string, problem: string): SandboxError {
  return new SandboxError(
    "unavailable",
    `cannot ask the instance metadata service at ${url.split("?")[0]}: ${problem}`,
  );
}
