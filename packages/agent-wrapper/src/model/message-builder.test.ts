import assert from "node:assert/strict";
import { test } from "node:test";
import { brokenInput, MessageBuilder } from "./message-builder.ts";
import { ModelError } from "./model-error.ts";

function built(...events: readonly object[]): MessageBuilder {
  const builder = new MessageBuilder();
  for (const event of events) builder.add({ event: "", data: JSON.stringify(event) });
  return builder;
}

const start = {
  type: "message_start",
  message: { id: "msg_1", model: "m", stop_reason: null, usage: { input_tokens: 3, output_tokens: 1 } },
};
const block = (index: number, content_block: object) => ({ type: "content_block_start", index, content_block });
const delta = (index: number, of: object) => ({ type: "content_block_delta", index, delta: of });

test("a message of text, thinking and a tool use is assembled from its events", () => {
  const builder = built(
    start,
    { type: "ping" },
    block(0, { type: "thinking", thinking: "", signature: "" }),
    delta(0, { type: "thinking_delta", thinking: "hm" }),
    delta(0, { type: "signature_delta", signature: "s" }),
    block(1, { type: "text", text: "" }),
    delta(1, { type: "text_delta", text: "I " }),
    delta(1, { type: "text_delta", text: "see" }),
    { type: "content_block_stop", index: 1 },
    block(2, { type: "tool_use", id: "t", name: "Bash", input: {} }),
    delta(2, { type: "input_json_delta", partial_json: '{"comma' }),
    delta(2, { type: "input_json_delta", partial_json: 'nd":"ls"}' }),
    { type: "message_delta", delta: { stop_reason: "tool_use" }, usage: { output_tokens: 9 } },
    { type: "something_new" },
  );
  assert.equal(builder.isComplete, false);
  builder.add({ event: "", data: '{"type":"message_stop"}' });
  assert.equal(builder.isComplete, true);
  assert.deepEqual(builder.message(), {
    role: "assistant",
    id: "msg_1",
    model: "m",
    stop_reason: "tool_use",
    usage: { input_tokens: 3, output_tokens: 9 },
    content: [
      { type: "thinking", thinking: "hm", signature: "s" },
      { type: "text", text: "I see" },
      { type: "tool_use", id: "t", name: "Bash", input: { command: "ls" } },
    ],
  });
});

test("a missing tool input is empty, invalid JSON is marked, and empty text is dropped", () => {
  const { content } = built(
    start,
    block(0, { type: "text", text: "" }),
    block(1, { type: "tool_use", id: "a", name: "A", input: {} }),
    block(2, { type: "tool_use", id: "b", name: "B", input: {} }),
    delta(2, { type: "input_json_delta", partial_json: '{"x":' }),
  ).message();
  assert.deepEqual(content, [
    { type: "tool_use", id: "a", name: "A", input: {} },
    { type: "tool_use", id: "b", name: "B", input: { [brokenInput]: '{"x":' } },
  ]);
});

for (const [what, ...events] of [
  ["invalid JSON", "{"],
  ["JSON that is not an object", "[1]"],
  ["a delta without its block", JSON.stringify(start), JSON.stringify(delta(0, { type: "text_delta", text: "x" }))],
  ["a negative index", JSON.stringify(start), JSON.stringify(block(-1, { type: "text" }))],
  ["an index above the limit", JSON.stringify(start), JSON.stringify(block(1e9, { type: "text" }))],
  ["a stop without a start", '{"type":"message_stop"}'],
] as const) {
  test(`${what} is refused`, () => {
    const builder = new MessageBuilder();
    assert.throws(() => events.forEach((data) => builder.add({ event: "", data })), ModelError);
  });
}

test("a streamed error is reported with its type", () => {
  assert.throws(
    () => built(start, { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }),
    /^ModelError: the model server aborted the answer: Overloaded \(overloaded_error\)$/,
  );
});
