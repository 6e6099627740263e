import type { AgentEvent } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { visibleText } from "#output/visible-text.ts";
import { writeTo } from "#output/write-to.ts";

/** Prints answers to standard output and tool uses to standard error. With `--json`, prints each event as a line. */
export async function printEvent(event: AgentEvent, { host, globals, print, note }: Context): Promise<void> {
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
      // The text of the result has already been printed.
      if (event["is_error"] === true)
        note("stopped: the task is not done after the maximum number of model requests (--max-turns)");
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

const maxLength = 200;

/** The text on one line, cut at the maximum length. */
function shortened(text: string): string {
  const line = text.trim().replaceAll(/[\s\p{Cc}]+/gu, " ");
  return line.length > maxLength ? `${line.slice(0, maxLength)}…` : line;
}
