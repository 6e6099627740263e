import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { asText, isRecord } from "../command.ts";
import type { Message, ModelMessage, ToolDescription } from "./message.ts";
import { MessageBuilder, shortened } from "./message-builder.ts";
import { ModelError } from "./model-error.ts";
import { serverSentEvents } from "./server-sent-events.ts";

export interface ModelRequest {
  readonly model: string;
  readonly system: string;
  readonly messages: readonly Message[];
  readonly tools: readonly ToolDescription[];
}

export interface ModelListener {
  /** An event of the stream, as it comes. */
  event(event: Readonly<Record<string, unknown>>): void;
  /** The server is asked again after a pause. */
  retry(error: ModelError, attempt: number, pauseMs: number): void;
}

export interface Model {
  /**
   * What the model answers. A message that `signal` has cut short is given as far as it came, with `interrupted` set.
   *
   * @throws ModelError
   */
  ask(
    request: ModelRequest,
    listener: ModelListener,
    signal: AbortSignal,
  ): Promise<{ readonly message: ModelMessage; readonly interrupted: boolean }>;
}

export interface MessagesOptions {
  readonly baseUrl: string;
  readonly apiKey: string | undefined;
  readonly authToken: string | undefined;
  pause(milliseconds: number, signal: AbortSignal): Promise<unknown>;
}

const attempts = 5;
const firstPauseMs = 500;
const maxPauseMs = 60_000;
const silenceMs = 300_000;
/** What every model that speaks this API can give. */
const maxTokens = 8192;

/** The Messages API, streamed. */
export function messagesClient(options: MessagesOptions): Model {
  const url = `${options.baseUrl.replace(/\/+$/, "")}/v1/messages`;
  const headers = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    ...(options.apiKey === undefined ? {} : { "x-api-key": options.apiKey }),
    ...(options.authToken === undefined ? {} : { authorization: `Bearer ${options.authToken}` }),
  };
  return {
    async ask(request, listener, signal) {
      const body = JSON.stringify(bodyOf(request));
      const builder = new MessageBuilder();
      try {
        const response = await untilAnswered(
          async () => await post(url, { headers, body, signal }),
          (error, attempt, pauseMs) => {
            listener.retry(error, attempt, pauseMs);
            return options.pause(pauseMs, signal);
          },
        );
        for await (const event of serverSentEvents(response)) {
          listener.event(builder.add(event));
          if (builder.isComplete) return { message: builder.message(), interrupted: false };
        }
      } catch (error) {
        if (signal.aborted) return { message: builder.message(), interrupted: true };
        if (error instanceof ModelError) throw error;
        throw new ModelError(`the line to the model server broke: ${(error as Error).message}`, { cause: error });
      }
      throw new ModelError("the model server ended the stream before the message was complete");
    },
  };
}

/** Nothing has happened as long as there is no answer, so asking again does no harm. */
async function untilAnswered<T>(
  ask: () => Promise<T>,
  pause: (error: ModelError, attempt: number, pauseMs: number) => Promise<unknown>,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ModelError) || !error.retryable || attempt === attempts) throw error;
      const pauseMs = error.retryAfterMs ?? firstPauseMs * 2 ** (attempt - 1);
      await pause(error, attempt, Math.min(pauseMs, maxPauseMs));
    }
  }
}

/** Not by `fetch`: what that loads takes seconds to come up where the processor is emulated, and this does not. */
async function post(
  url: string,
  { headers, body, signal }: { headers: Record<string, string>; body: string; signal: AbortSignal },
): Promise<AsyncIterable<Uint8Array>> {
  const { request } = url.startsWith("https:") ? await import("node:https") : await import("node:http");
  let response: IncomingMessage;
  try {
    const length = Buffer.byteLength(body);
    const asked = request(url, { method: "POST", headers: { ...headers, "content-length": length }, signal });
    asked.setTimeout(silenceMs, () => asked.destroy(new Error("nothing was heard for five minutes")));
    asked.end(body);
    [response] = (await once(asked, "response")) as [IncomingMessage];
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ModelError(`cannot reach the model server at ${url}: ${(error as Error).message}`, {
      retryable: true,
      cause: error,
    });
  }
  const { statusCode: status = 0, headers: replied } = response;
  const type = replied["content-type"] ?? "";
  const isOk = status >= 200 && status < 300;
  if (isOk && type.includes("text/event-stream")) return response;
  const text = await beginningOf(response);
  if (isOk) throw new ModelError(`the model server answered with ${type || "nothing"}: ${shortened(text)}`);
  throw new ModelError(`the model server answered ${status}: ${reasonOf(text)}`, {
    // 529: overloaded.
    retryable: status === 408 || status === 429 || status >= 500,
    retryAfterMs: secondsOf(replied["retry-after"]),
  });
}

/** Of what is no answer so much is looked at. */
const maxReasonLength = 65_536;

async function beginningOf(response: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response) {
    parts.push(part);
    length += part.length;
    if (length > maxReasonLength) break;
  }
  return Buffer.concat(parts).toString();
}

function bodyOf({ model, system, messages, tools }: ModelRequest) {
  return {
    model,
    max_tokens: maxTokens,
    // What comes before a mark need not be read anew, and paid for in full, with the next request of the conversation.
    system: [{ type: "text", text: system, cache_control: { type: "ephemeral" } }],
    messages: messages.map(({ role, content }, index) => ({
      role,
      content: index < messages.length - 1 ? content : withMark(content),
    })),
    ...(tools.length === 0 ? {} : { tools }),
    stream: true,
  };
}

function withMark(content: Message["content"]): Message["content"] {
  return content.map((block, index) =>
    index < content.length - 1 ? block : { ...block, cache_control: { type: "ephemeral" } },
  );
}

function reasonOf(text: string): string {
  try {
    const value: unknown = JSON.parse(text);
    const error = isRecord(value) && isRecord(value["error"]) ? value["error"] : {};
    if (typeof error["message"] === "string") return `${error["message"]} (${asText(error["type"], "error")})`;
  } catch {
    // Not JSON: as it is.
  }
  return shortened(text);
}

function secondsOf(header: string | undefined): number | undefined {
  const seconds = header === undefined ? Number.NaN : Number(header);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
}
