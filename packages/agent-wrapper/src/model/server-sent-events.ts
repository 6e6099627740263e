import { createParser } from "eventsource-parser";

export interface ServerSentEvent {
  readonly event: string;
  readonly data: string;
}

/** A limit in UTF-16 code units, far above any event of the Messages API. */
const maxEventLength = 16 * 2 ** 20;

/**
 * The events in a stream of bytes, as the HTML standard defines them. An event that the end of the stream cuts off is
 * dropped.
 * @throws when an event is longer than 16 MiB
 */
export async function* serverSentEvents(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<ServerSentEvent> {
  const decoder = new TextDecoder();
  let complete: ServerSentEvent[] = [];
  const parser = createParser({
    maxBufferSize: maxEventLength,
    onEvent: ({ event = "message", data }) => void complete.push({ event, data }),
    onError({ type }) {
      // The standard ignores unknown fields and invalid retry times.
      if (type === "max-buffer-size-exceeded") throw new Error("an event is longer than 16 MiB");
    },
  });
  for await (const chunk of bytes) {
    parser.feed(decoder.decode(chunk, { stream: true }));
    yield* complete;
    complete = [];
  }
}
