import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { EventReply, type EventType, listEvents } from "@opensandbox/wire/public/events.ts";
import { readEvents } from "#transport/events.ts";
import { errorFromReply, replyOf, type HttpClient } from "#transport/http.ts";
import { wait } from "#transport/wait.ts";

/** One thing that happened to a sandbox. */
export interface SandboxEvent {
  readonly id: string;
  readonly type: EventType;
  readonly sandboxId: string;
  readonly organizationId: string;
  /** When it happened. */
  readonly at: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface EventSelection {
  /** Absent: all sandboxes of the organization. */
  readonly sandboxId?: string;
  /** Types of events, each exact or `prefix.*`. Absent: all. */
  readonly types?: readonly string[];
  /** The cursor of an earlier reply, which selects the events after it, oldest first. Absent: the newest events. */
  readonly after?: string;
}

export interface EventPage {
  /** Oldest first. */
  readonly events: readonly SandboxEvent[];
  /** The value of `after` for the events that follow. */
  readonly cursor: string;
  readonly hasMore: boolean;
}

export interface EventsClient {
  /** A page of events, 100 without a limit and 1000 at most. */
  list(selection?: EventSelection & { readonly limit?: number }, signal?: AbortSignal): Promise<EventPage>;
  /**
   * Events as they come, until the iteration or the signal ends. After a break of the connection it continues with the
   * event after the last one.
   */
  follow(selection?: EventSelection, signal?: AbortSignal, options?: FollowEvents): AsyncGenerator<SandboxEvent, void>;
}

export interface FollowEvents {
  /** Called when the connection opens, and when it breaks. */
  readonly onConnection?: (isOpen: boolean) => void;
}

/** The pause before the stream is opened again, in milliseconds. */
const reopenMs = 1000;

export function eventsClient(http: HttpClient): EventsClient {
  return {
    async list({ limit, ...selection } = {}, signal) {
      const query = { ...queryOf(selection), ...(limit === undefined ? {} : { limit: String(limit) }) };
      const { data, nextCursor: cursor, hasMore } = await http.call(listEvents, { query }, signal);
      return { events: data.map(eventOf), cursor, hasMore };
    },
    async *follow(selection = {}, signal, { onConnection } = {}) {
      // The cursor is read before the first event, so that a break before that event loses none. A failure rejects here.
      let after = selection.after ?? (await http.call(listEvents, { query: { limit: "1" } }, signal)).nextCursor;
      for (;;) {
        try {
          const headers = { Accept: "text/event-stream" };
          const response = await http.send(listEvents, { query: queryOf({ ...selection, after }), headers }, signal);
          onConnection?.(true);
          for await (const { id = after, event, data } of readEvents(response, signal)) {
            if (event === "error") throw errorFromReply(500, data);
            yield eventOf(replyOf({ name: listEvents.name, reply: EventReply }, data));
            after = id;
          }
        } catch (error) {
          if (!isSandboxError(error, "unavailable")) throw error;
        }
        onConnection?.(false);
        await wait(reopenMs, signal);
      }
    },
  };
}

function queryOf({ sandboxId, types, after }: EventSelection) {
  return {
    ...(sandboxId === undefined ? {} : { sandboxId }),
    ...(types === undefined ? {} : { types: types.join(",") }),
    ...(after === undefined ? {} : { after }),
  };
}

function eventOf({ id, type, sandboxId, orgId, ts, data }: EventReply): SandboxEvent {
  return { id, type, sandboxId, organizationId: orgId, at: ts, data };
}
