import { createParser } from "eventsource-parser";
import { bytesOf } from "./body.ts";
import { translate } from "./http.ts";

export interface ServerEvent {
  readonly event: string;
  readonly data: string;
  /** The position of the event, in a stream that can be resumed. */
  readonly id?: string;
}

/**
 * The server-sent events of a reply. A reply of another type is one event `result` with the whole body: a server that
 * has no progress to report answers with plain JSON, and callers read both the same way.
 */
export async function* readEvents(response: Response, signal?: AbortSignal): AsyncGenerator<ServerEvent, void> {
  if (!(response.headers.get("content-type") ?? "").includes("text/event-stream")) {
    yield { event: "result", data: await translate(response.url, signal, async () => await response.text()) };
    return;
  }
  const decoder = new TextDecoder();
  let complete: ServerEvent[] = [];
  const parser = createParser({
    onEvent: ({ event = "message", data, id }) =>
      void complete.push({ event, data, ...(id === undefined ? {} : { id }) }),
  });
  for await (const chunk of bytesOf(response, signal)) {
    parser.feed(decoder.decode(chunk, { stream: true }));
    yield* complete;
    complete = [];
  }
}
