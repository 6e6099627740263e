import { z } from "zod";
import { SandboxError } from "../errors.ts";
import type { Route } from "../route.ts";
import { previewHostname } from "./guests/previews.ts";

/** Every type of event, as the published clients know them. `sandbox.migrated` is reserved. */
export const eventTypes = [
  "sandbox.created",
  "sandbox.ready",
  "sandbox.hibernated",
  "sandbox.resumed",
  "sandbox.stopped",
  "sandbox.migrated",
  "sandbox.checkpoint.created",
  "sandbox.forked",
  "sandbox.scaled",
  "sandbox.preview_url.changed",
  "sandbox.test",
] as const;
export type EventType = (typeof eventTypes)[number];

/**
 * Why a sandbox stopped. `expired`: by its idle timeout, a limit or the end of an ephemeral server. `crash`: its machine
 * ended by itself, or its start failed.
 */
export type StopReason = "user_requested" | "expired" | "crash";

/** The facts of an event, in the words of the server. */
export type EventFacts =
  | { readonly type: "sandbox.created"; readonly data: { readonly image: string } }
  | { readonly type: "sandbox.ready" | "sandbox.hibernated" | "sandbox.resumed"; readonly data: object }
  | { readonly type: "sandbox.stopped"; readonly data: { readonly reason: StopReason } }
  | { readonly type: "sandbox.checkpoint.created"; readonly data: { readonly checkpointId: string } }
  | { readonly type: "sandbox.forked"; readonly data: { readonly parentId: string } }
  | { readonly type: "sandbox.scaled"; readonly data: { readonly vcpus: number; readonly memoryMib: number } }
  | {
      readonly type: "sandbox.preview_url.changed";
      /** `hostname`: the custom domain. `removed`: the port has no preview any longer. */
      readonly data: { readonly port: number; readonly hostname?: string; readonly removed?: true };
    }
  | { readonly type: "sandbox.test"; readonly data: object };

/** An event as the server stores it. */
interface EventToShow {
  readonly id: string;
  readonly organizationId: string;
  readonly sandboxId: string;
  readonly createdAt: Date;
  readonly facts: EventFacts;
}

export const EventReply = z
  .object({
    id: z.string(),
    ts: z.iso.datetime(),
    orgId: z.string(),
    sandboxId: z.string(),
    type: z.enum(eventTypes),
    data: z.record(z.string(), z.unknown()),
  })
  .meta({ id: "Event" });
export type EventReply = z.infer<typeof EventReply>;

export function eventReplyOf(event: EventToShow, sandboxDomain: string): EventReply {
  const { id, createdAt, organizationId, sandboxId, facts } = event;
  const data = dataOf(facts, sandboxId, sandboxDomain);
  return { id, ts: createdAt.toISOString(), orgId: organizationId, sandboxId, type: facts.type, data };
}

function dataOf({ type, data }: EventFacts, sandboxId: string, sandboxDomain: string): Record<string, unknown> {
  switch (type) {
    case "sandbox.created":
      return { template: data.image };
    case "sandbox.scaled":
      return { cpuCount: data.vcpus, memoryMB: data.memoryMib };
    case "sandbox.preview_url.changed": {
      const hostname = data.hostname ?? previewHostname(sandboxId, data.port, sandboxDomain);
      return { port: data.port, url: data.removed === true ? null : `https://${hostname}` };
    }
    case "sandbox.ready":
    case "sandbox.hibernated":
    case "sandbox.resumed":
    case "sandbox.stopped":
    case "sandbox.checkpoint.created":
    case "sandbox.forked":
    case "sandbox.test":
      return { ...data };
  }
}

/**
 * Expands a list of types and `prefix.*` patterns. Undefined for an empty list, which selects every type. @throws
 * `invalid_argument` for an entry that names no type
 */
export function eventTypesFrom(patterns: readonly string[]): readonly EventType[] | undefined {
  if (patterns.length === 0) return undefined;
  const named = new Set<EventType>();
  for (const pattern of patterns) {
    const prefix = pattern.endsWith(".*") ? pattern.slice(0, -1) : undefined;
    const found = eventTypes.filter((type) => (prefix === undefined ? type === pattern : type.startsWith(prefix)));
    if (found.length === 0) {
      throw new SandboxError(
        "invalid_argument",
        `unknown event type "${pattern}": use ${eventTypes.join(", ")}, or a prefix such as sandbox.checkpoint.*`,
      );
    }
    for (const type of found) named.add(type);
  }
  return [...named];
}

const maxPage = 1000;

const EventsQuery = z.object({
  sandboxId: z.string().optional().meta({ description: "Only events of this sandbox." }),
  types: z
    .string()
    .optional()
    .meta({ description: "Only these types: comma-separated, each exact or `prefix.*`. Default: all." }),
  after: z
    .string()
    .regex(/^\d{1,15}$/, "after must be a cursor of an earlier reply")
    .optional()
    .meta({
      description:
        "Only events after this cursor, oldest first: `nextCursor` of a page, or the `id` of an event of the stream. " +
        "Absent: a page has the newest events, and a stream begins with the next event.",
    }),
  limit: z
    .string()
    .regex(/^\d{1,4}$/, `limit must be a number from 1 to ${maxPage}`)
    .refine((text) => Number(text) >= 1 && Number(text) <= maxPage, `limit must be a number from 1 to ${maxPage}`)
    .optional()
    .meta({ description: `Events in a page. Default: 100. At most ${maxPage}.` }),
});
type EventsQuery = z.infer<typeof EventsQuery>;

const EventsReply = z
  .object({
    data: z.array(EventReply).meta({ description: "Oldest first." }),
    nextCursor: z.string().meta({ description: "The value of `after` for the events that follow." }),
    hasMore: z.boolean(),
  })
  .meta({ id: "Events" });
type EventsReply = z.infer<typeof EventsReply>;

export const listEvents: Route<unknown, EventsQuery, EventsReply> = {
  method: "GET",
  path: "/api/events",
  name: "listEvents",
  summary: "List the events of sandboxes, or follow them as server-sent events",
  description:
    "With `Accept: text/event-stream` the answer is a stream that does not end. Each event has its type as name, its " +
    "cursor as `id` and an Event as data. `Last-Event-ID`, which browsers send when they reconnect, takes the place of " +
    "`after`, so that a reconnecting client misses nothing. Events of one sandbox come in their order. They are kept " +
    "for 90 days at least.",
  access: "key",
  query: EventsQuery,
  status: 200,
  reply: EventsReply,
};

/** The selection that a query for events describes. @throws `invalid_argument` for an unknown type */
export function eventSelectionFrom({ sandboxId, types, limit }: EventsQuery): {
  readonly sandboxId: string | undefined;
  readonly types: readonly EventType[] | undefined;
  readonly limit: number;
} {
  const named = (types ?? "").split(",").map((type) => type.trim());
  return {
    sandboxId,
    types: eventTypesFrom(named.filter((type) => type !== "")),
    limit: Number(limit ?? 100),
  };
}
