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
  /** Called with each event of the stream. */
  event(event: Readonly<Record<string, unknown>>): void;
  /** Called before the request is repeated after a pause. */
  retry(error: ModelError, attempt: number, pauseMs: number): void;
}

export interface Model {
  /**
   * Asks the model. When `signal` interrupts the answer, returns the part that has arrived, with `interrupted` set.
   *
   * @throws ModelError when the server cannot be reached, refuses the request or sends an incomplete answer
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

const maxAttempts = 5;
const firstPauseMs = 500;
const maxPauseMs = 60_000;
const maxSilenceMs = 300_000;
/** The number of output tokens that every model of this API supports. */
const maxTokens = 8192;

/** A client of the Messages API that streams answers. */
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
        const response = await retried(
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
        throw new ModelError(`the connection to the model server broke: ${(error as Error).message}`, { cause: error });
      }
      throw new ModelError("the model server ended the stream before the message was complete");
    },
  };
}

/** Retries with exponential back-off. Before the answer starts, a repeated request does no harm. */
async function retried<T>(
  ask: () => Promise<T>,
  pause: (error: ModelError, attempt: number, pauseMs: number) => Promise<unknown>,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ModelError) || !error.retryable || attempt === maxAttempts) throw error;
      const pauseMs = error.retryAfterMs ?? firstPauseMs * 2 ** (attempt - 1);
      await pause(error, attempt, Math.min(pauseMs, maxPauseMs));
    }
  }
}

/** Uses `node:http` because `fetch` takes seconds to load on an emulated processor. */
async function post(
  url: string,
  { headers, body, signal }: { headers: Record<string, string>; body: string; signal: AbortSignal },
): Promise<AsyncIterable<Uint8Array>> {
  const { request } = url.startsWith("https:") ? await import("node:https") : await import("node:http");
  let response: IncomingMessage;
  try {
    const length = Buffer.byteLength(body);
    const asked = request(url, { method: "POST", headers: { ...headers, "content-length": length }, signal });
    asked.setTimeout(maxSilenceMs, () => asked.destroy(new Error("the server sent nothing for five minutes")));
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
    // Status 529: the model server is overloaded.
    retryable: status === 408 || status === 429 || status >= 500,
    retryAfterMs: secondsOf(replied["retry-after"]),
  });
}

/** The part of an error reply that is read, in bytes. */
const maxReasonBytes = 65_536;

async function beginningOf(response: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response) {
    parts.push(part);
    length += part.length;
    if (length > maxReasonBytes) break;
  }
  return Buffer.concat(parts).toString();
}

function bodyOf({ model, system, messages, tools }: ModelRequest) {
  return {
    model,
    max_tokens: maxTokens,
    // The server caches the conversation up to each mark, which makes the next request faster and cheaper.
    system: [{ type: "text", text: system, cache_control: { type: "ephemeral" } }],
    messages: messages.map(({ role, content }, index) => ({
      role,
      content: index < messages.length - 1 ? content : withCacheMark(content),
    })),
    ...(tools.length === 0 ? {} : { tools }),
    stream: true,
  };
}

function withCacheMark(content: Message["content"]): Message["content"] {
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
    // Text that is not JSON is shown unchanged.
  }
  return shortened(text);
}

function secondsOf(header: string | undefined): number | undefined {
  const seconds = header === undefined ? Number.NaN : Number(header);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
}
