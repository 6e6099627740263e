import type { AgentEvent } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { visibleText } from "#output/visible-text.ts";
import { writeTo } from "#output/write-to.ts";

/** What it says on standard output, what it does on standard error; with `--json` each event as a line. */
export async function tellEvent(event: AgentEvent, { host, globals, print, note }: Context): Promise<void> {
  if (globals.json) return await print("", event);
  switch (event.type) {
    case "assistant":
      for (const { type, text, name, input } of blocksOf(event)) {
        if (type === "text") await print(String(text), text);
        else if (type === "tool_use") note(`${String(name)} ${shortened(JSON.stringify(input))}`);
      }
      return;
    case "user":
      for (const { is_error, content } of blocksOf(event)) {
        if (is_error === true) note(`failed: ${shortened(textOf(content))}`);
      }
      return;
    case "system":
      if (event["subtype"] === "api_retry") note(`asking the model again: ${String(event["error"])}`);
      return;
    case "result":
      // What it says in the end it has said already.
      if (event["is_error"] === true) note("the model was asked as often as it may be, and is not done");
      return;
    case "interrupted":
      return note("interrupted");
    case "error":
      return note(String(event["message"]));
    case "log":
      return await writeTo(host.stderr, visibleText(String(event["text"])));
    case "ready":
    case "configured":
    case "stream_event":
    case "tool_use_summary":
    case "turn_complete":
    default:
      return;
  }
}

interface Block {
  readonly type?: unknown;
  readonly [field: string]: unknown;
}

function blocksOf({ message }: AgentEvent): readonly Block[] {
  const { content } = (message ?? {}) as { readonly content?: unknown };
  return Array.isArray(content) ? (content as Block[]) : [];
}

function textOf(content: unknown): string {
  return typeof content === "string" ? content : JSON.stringify(content);
}

const longest = 200;

/** On one line. */
function shortened(text: string): string {
  const line = text.trim().replaceAll(/[\s\p{Cc}]+/gu, " ");
  return line.length > longest ? `${line.slice(0, longest)}…` : line;
}
