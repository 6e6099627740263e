import { bytesOf } from "./body.ts";
import { translate } from "./http.ts";

export interface ServerEvent {
  readonly event: string;
  readonly data: string;
}

/**
 * The server-sent events of a reply. A reply of another type is one event `result` with all of it, so that
 * a server which had nothing to tell on the way reads the same.
 */
export async function* readEvents(response: Response, signal?: AbortSignal): AsyncGenerator<ServerEvent, void> {
  if (!(response.headers.get("content-type") ?? "").includes("text/event-stream")) {
    yield { event: "result", data: await translate(response.url, signal, async () => await response.text()) };
    return;
  }
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of bytesOf(response, signal)) {
    text += decoder.decode(chunk, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event !== undefined) yield event;
    }
  }
}

function parseEvent(block: string): ServerEvent | undefined {
  const lines = block.split("\n");
  const field = (name: string): string | undefined =>
    lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  const data = field("data");
  // A comment keeps the connection alive.
  return data === undefined ? undefined : { event: field("event") ?? "message", data };
}
