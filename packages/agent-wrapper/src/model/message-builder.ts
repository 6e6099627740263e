import { asText, isRecord } from "../command.ts";
import type { ContentBlock, ModelMessage } from "./message.ts";
import { ModelError } from "./model-error.ts";
import type { ServerSentEvent } from "./server-sent-events.ts";

/** Assembles a message from the events of its stream. */
export class MessageBuilder {
  isComplete = false;
  #message: Record<string, unknown> | undefined;
  readonly #blocks: (ContentBlock & Record<string, unknown>)[] = [];
  /** The JSON text of tool inputs, by block. It arrives in fragments. */
  readonly #inputs = new Map<number, string>();

  /** Adds an event and returns its content. @throws ModelError for an `error` event and for one that is out of order */
  add({ data }: ServerSentEvent): Readonly<Record<string, unknown>> {
    const event = parsed(data);
    switch (event["type"]) {
      case "message_start":
        this.#message = recordOf(event["message"], data);
        break;
      case "content_block_start":
        this.#blocks[indexOf(event, data)] = blockOf(recordOf(event["content_block"], data));
        break;
      case "content_block_delta":
        this.#extend(indexOf(event, data), recordOf(event["delta"], data), data);
        break;
      case "message_delta": {
        const message = this.#started(data);
        Object.assign(message, recordOf(event["delta"], data));
        message["usage"] = { ...usageOf(message), ...usageOf(event) };
        break;
      }
      case "message_stop":
        this.#started(data);
        this.isComplete = true;
        break;
      case "error": {
        const error = isRecord(event["error"]) ? event["error"] : {};
        throw new ModelError(
          `the model server aborted the answer: ${asText(error["message"], data)} (${asText(error["type"], "error")})`,
        );
      }
      default:
      // `ping`, the end of a block, and event types that the API adds later.
    }
    return event;
  }

  /** The message as far as it has arrived. */
  message(): ModelMessage {
    const { id, model, stop_reason: stopReason } = this.#message ?? {};
    return {
      role: "assistant",
      id: asText(id),
      model: asText(model),
      stop_reason: typeof stopReason === "string" ? stopReason : null,
      usage: usageOf(this.#message ?? {}),
      content: this.#content(),
    };
  }

  #content(): ContentBlock[] {
    return this.#blocks.flatMap((block, index) => {
      const input = this.#inputs.get(index);
      if (block["type"] === "text" && block["text"] === "") return [];
      return [input === undefined ? block : { ...block, input: inputOf(input) }];
    });
  }

  #extend(index: number, delta: Record<string, unknown>, data: string): void {
    const block = this.#blocks[index];
    if (block === undefined) throw outOfPlace(data);
    const append = (field: string): void => {
      block[field] = asText(block[field]) + asText(delta[field]);
    };
    switch (delta["type"]) {
      case "text_delta":
        append("text");
        break;
      case "thinking_delta":
        append("thinking");
        break;
      case "signature_delta":
        append("signature");
        break;
      case "input_json_delta":
        this.#inputs.set(index, (this.#inputs.get(index) ?? "") + asText(delta["partial_json"]));
        break;
      default:
    }
  }

  #started(data: string): Record<string, unknown> {
    if (this.#message === undefined) throw outOfPlace(data);
    return this.#message;
  }
}

/** The field that marks a tool's input as incomplete or invalid JSON. */
export const brokenInput = "__broken_json__";

function inputOf(json: string): Record<string, unknown> {
  if (json === "") return {};
  try {
    const input: unknown = JSON.parse(json);
    if (isRecord(input)) return input;
  } catch {
    // The tool result reports it to the model, which can try again.
  }
  return { [brokenInput]: json };
}

function parsed(data: string): Record<string, unknown> {
  try {
    const event: unknown = JSON.parse(data);
    if (isRecord(event)) return event;
  } catch {
    // The error below reports it.
  }
  throw new ModelError(`the model server sent an event that is not a JSON object: ${shortened(data)}`);
}

function indexOf(event: Record<string, unknown>, data: string): number {
  const { index } = event;
  if (typeof index !== "number" || !Number.isInteger(index) || index < 0 || index > 10_000) throw outOfPlace(data);
  return index;
}

function recordOf(value: unknown, data: string): Record<string, unknown> {
  if (!isRecord(value)) throw outOfPlace(data);
  return value;
}

function blockOf(block: Record<string, unknown>): ContentBlock & Record<string, unknown> {
  return { ...block, type: asText(block["type"]) };
}

function usageOf(holder: Record<string, unknown>): Record<string, unknown> {
  return isRecord(holder["usage"]) ? holder["usage"] : {};
}

function outOfPlace(data: string): ModelError {
  return new ModelError(`the model server sent an event out of order: ${shortened(data)}`);
}

export function shortened(text: string, length = 300): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
