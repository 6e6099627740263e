// A server of the Messages API without a model: the prompt determines the answer. `startStubModel` runs it in this process.
// As a program it listens on a given port. It imports only modules of Node, so that the file alone runs in a guest.
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface StubModel extends AsyncDisposable {
  readonly url: string;
  readonly requests: ModelRequestBody[];
}

export interface ModelRequestBody {
  readonly model: string;
  readonly system: readonly { readonly text: string }[];
  readonly messages: readonly { readonly role: string; readonly content: readonly Block[] }[];
  readonly tools?: readonly { readonly name: string }[];
  readonly headers: IncomingMessage["headers"];
}

type Block = { readonly type: string } & Readonly<Record<string, unknown>>;

/** The only key that the server accepts. */
export const stubKey = "stub-key";

/**
 * Starts the server. It answers these prompts:
 * - `run CMD` uses Bash, `use NAME JSON` any tool; the answer to the tool's result is `it said: ...`
 * - `loop` uses a tool forever
 * - `stream` streams words until the client disconnects
 * - `status N` fails with status N and `retry-after: 0`; `once N` fails only the first time
 * - `close` ends the stream early, `reset` breaks the connection, `garbage` sends an invalid event, `html` a page,
 *   `overloaded` an error event, `broken input` a use of Bash with invalid JSON
 * - any other prompt is echoed
 */
export async function startStubModel(port = 0): Promise<StubModel> {
  const requests: ModelRequestBody[] = [];
  const server = createServer((request, response) => {
    void answer(request, response, requests);
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, requests: ModelRequestBody[]) {
  const { headers, url } = request;
  let text = "";
  for await (const chunk of request.setEncoding("utf8") as AsyncIterable<string>) text += chunk;
  const body = { ...(JSON.parse(text) as ModelRequestBody), headers };
  requests.push(body);
  if (url !== "/v1/messages") return refuse(response, 404, "not_found_error", `no ${url}`);
  if (headers["x-api-key"] !== stubKey) return refuse(response, 401, "authentication_error", "invalid x-api-key");
  const last = body.messages.at(-1)?.content.at(-1);
  if (last?.type === "tool_result" && !isLoop(body)) return say(response, `it said: ${String(last["content"])}`);
  const [word = "", ...rest] = isLoop(body) ? ["loop"] : String(last?.["text"]).split(" ");
  const line = rest.join(" ");
  switch (word) {
    case "run":
      return use(response, "Bash", JSON.stringify({ command: line }));
    case "use":
      return use(response, rest[0] ?? "", rest.slice(1).join(" "));
    case "loop":
      return use(response, "Bash", '{"command":"echo again"}');
    case "broken":
      return use(response, "Bash", '{"command": "ech');
    case "stream":
      startStream(response);
      for (let count = 0; !response.destroyed; count += 1) {
        textDelta(response, `word${count} `);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return;
    case "once":
      if (requests.filter((other) => textsOf(other).at(-1) === `once ${line}`).length > 1) return say(response, "now");
      return refuse(response, Number(line), "overloaded_error", "Overloaded");
    case "status":
      return refuse(response, Number(line), "some_error", "refused");
    case "close":
      startStream(response);
      textDelta(response, "half a");
      response.end();
      return;
    case "reset":
      startStream(response);
      textDelta(response, "half a");
      setTimeout(() => response.destroy(), 50);
      return;
    case "garbage":
      startStream(response);
      response.end("event: content_block_delta\ndata: {not json\n\n");
      return;
    case "html":
      response.writeHead(200, { "content-type": "text/html" }).end("<h1>a proxy</h1>");
      return;
    case "overloaded":
      startStream(response);
      send(response, { type: "error", error: { type: "overloaded_error", message: "Overloaded" } });
      response.end();
      return;
    default:
      return say(response, `you said: ${[word, ...rest].join(" ")}`);
  }
}

function isLoop(body: ModelRequestBody): boolean {
  return textsOf(body).at(-1) === "loop";
}

function textsOf(body: ModelRequestBody): string[] {
  return body.messages.flatMap(({ role, content }) =>
    content.flatMap(({ type, text }) => (role === "user" && type === "text" ? [String(text)] : [])),
  );
}

function startStream(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  const usage = { input_tokens: 10, output_tokens: 1 };
  const message = { id: "msg_1", type: "message", role: "assistant", model: "stub", content: [], usage };
  send(response, { type: "message_start", message: { ...message, stop_reason: null } });
  send(response, { type: "ping" });
}

function say(response: ServerResponse, text: string): void {
  startStream(response);
  send(response, { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } });
  // The text comes in two parts, possibly cut within a multi-byte character.
  const half = Math.floor(text.length / 2);
  for (const part of [text.slice(0, half), text.slice(half)]) {
    send(response, { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: part } });
  }
  send(response, { type: "content_block_stop", index: 0 });
  end(response, "end_turn");
}

function textDelta(response: ServerResponse, text: string): void {
  if (!begun.has(response))
    send(response, { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } });
  begun.add(response);
  send(response, { type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
}

const begun = new WeakSet<ServerResponse>();

function use(response: ServerResponse, name: string, json: string): void {
  startStream(response);
  send(response, { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } });
  send(response, { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "let me see" } });
  send(response, { type: "content_block_stop", index: 0 });
  const block = { type: "tool_use", id: `toolu_${crypto.randomUUID()}`, name, input: {} };
  send(response, { type: "content_block_start", index: 1, content_block: block });
  for (const part of json.match(/[^]{1,7}/g) ?? []) {
    send(response, { type: "content_block_delta", index: 1, delta: { type: "input_json_delta", partial_json: part } });
  }
  send(response, { type: "content_block_stop", index: 1 });
  end(response, "tool_use");
}

function end(response: ServerResponse, reason: string): void {
  send(response, { type: "message_delta", delta: { stop_reason: reason }, usage: { output_tokens: 5 } });
  send(response, { type: "message_stop" });
  response.end();
}

function send(response: ServerResponse, event: { readonly type: string; readonly [field: string]: unknown }): void {
  response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
}

function refuse(response: ServerResponse, status: number, type: string, message: string): void {
  response.writeHead(status, { "content-type": "application/json", "retry-after": "0" });
  response.end(JSON.stringify({ type: "error", error: { type, message } }));
}

if (import.meta.main) {
  const { url } = await startStubModel(Number(process.argv[2] ?? 0));
  process.stdout.write(`${url}\n`);
}
