export interface ServerSentEvent {
  readonly event: string;
  readonly data: string;
}

/** No event of the Messages API comes near it. */
const maxEventLength = 16 * 2 ** 20;

/** The events in a stream of bytes, as the HTML standard has them; one that the stream breaks off in is none. */
export async function* serverSentEvents(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<ServerSentEvent> {
  const decoder = new TextDecoder();
  let rest = "";
  let event = "";
  let data: string[] = [];
  let length = 0;
  for await (const chunk of bytes) {
    rest += decoder.decode(chunk, { stream: true });
    // It may be the first half of a line's end.
    const isHeld = rest.endsWith("\r");
    const lines = (isHeld ? rest.slice(0, -1) : rest).split(/\r\n|\n|\r/);
    rest = (lines.pop() ?? "") + (isHeld ? "\r" : "");
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) yield { event: event || "message", data: data.join("\n") };
        [event, data, length] = ["", [], 0];
        continue;
      }
      const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (name === "event") event = value;
      else if (name === "data") data.push(value);
      length += line.length;
    }
    if (length + rest.length > maxEventLength) throw new Error("an event is longer than 16 MiB");
  }
}
