import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/public/events.ts";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { EventSelection } from "#events/event.ts";
import type { ApiContext } from "../api-context.ts";
import { EventStream } from "../event-stream.ts";
import { wantsEvents } from "../images/build-events.ts";
import { failureOf } from "../reply-error.ts";
import { answered, serve, type Call } from "../serve.ts";

/** Streams that an organization may have open at once. Each holds a connection and reads the database. */
const maxStreams = 100;
/** Events that a stream reads at once and holds in memory. */
const eventsAtOnce = 100;
/** The longest time in milliseconds until a stream sees an event of another server process on the same database. */
const pollMs = 2000;

export function serveEvents(app: FastifyInstance, api: ApiContext): void {
  const { events } = api.sandboxes.stores;
  const streams = new Map<string, number>();

  serve(app, api.sandboxes.shutdown.ending, wire.listEvents, async (call) => {
    const { organizationId, query } = call;
    const { limit, ...selected } = wire.eventSelectionFrom(query);
    const selection = { organizationId, ...selected };
    if (wantsEvents(call)) {
      using _ = countStream(streams, organizationId);
      await follow(api, call, selection);
      return answered;
    }
    const { after } = query;
    const page = await (after === undefined
      ? events.newest(selection, limit)
      : events.after(Number(after), selection, limit));
    const data = page.events.map((event) => wire.eventReplyOf(event, api.place.sandboxDomain));
    return { data, nextCursor: String(page.cursor), hasMore: page.hasMore };
  });
}

/** Sends events until the client disconnects or the server ends. It waits for a client that reads slowly. */
async function follow(
  api: ApiContext,
  {
    request,
    reply,
    query,
    signal,
  }: Pick<Call<unknown, { after?: string | undefined }>, "request" | "reply" | "query" | "signal">,
  selection: EventSelection,
): Promise<void> {
  const { events } = api.sandboxes.stores;
  const from = lastEventId(request) ?? query.after;
  let cursor = from === undefined ? await events.head() : Number(from);
  using stream = new EventStream(reply, api.timing.keepAliveMs);
  let recorded = new AbortController();
  using _ = events.onRecorded(() => recorded.abort());
  stream.begin();
  try {
    for (;;) {
      // Made before the read: an event that is recorded during the read ends the wait below at once.
      recorded = new AbortController();
      const page = await events.after(cursor, selection, eventsAtOnce);
      for (const event of page.events) {
        stream.send(event.facts.type, wire.eventReplyOf(event, api.place.sandboxDomain), String(event.sequence));
      }
      ({ cursor } = page);
      await stream.drained(signal);
      if (page.hasMore) {
        await turn();
        continue;
      }
      const enough = AbortSignal.any([signal, recorded.signal]);
      // The pause ends early when either signal aborts.
      await sleep(pollMs, undefined, { signal: enough }).catch(() => signal.throwIfAborted());
    }
  } catch (error) {
    if (!signal.aborted) stream.send("error", failureOf(error, request.id, api.sandboxes).body);
  } finally {
    stream.end();
  }
}

/**
 * The id that a browser sends when it reconnects. @throws `invalid_argument` when it is not the id of a stream's event
 */
function lastEventId({ headers }: FastifyRequest): string | undefined {
  const id = headers["last-event-id"];
  if (id === undefined || id === "") return undefined;
  if (typeof id === "string" && /^\d{1,15}$/.test(id)) return id;
  throw new SandboxError("invalid_argument", "Last-Event-ID must be the id of an event of this stream");
}

/** @throws `quota_exceeded` when the organization has too many streams */
function countStream(streams: Map<string, number>, organizationId: string): Disposable {
  const open = streams.get(organizationId) ?? 0;
  if (open >= maxStreams) {
    throw new SandboxError("quota_exceeded", `the organization has ${maxStreams} event streams open: close one first`);
  }
  streams.set(organizationId, open + 1);
  return {
    [Symbol.dispose]() {
      const left = (streams.get(organizationId) ?? 1) - 1;
      if (left === 0) streams.delete(organizationId);
      else streams.set(organizationId, left);
    },
  };
}
