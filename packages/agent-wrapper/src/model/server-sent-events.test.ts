import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { type ServerSentEvent, serverSentEvents } from "./server-sent-events.ts";

async function eventsOf(...chunks: readonly Uint8Array[]): Promise<ServerSentEvent[]> {
  return await Array.fromAsync(serverSentEvents(ReadableStream.from(chunks)));
}

test("events have a name and data; comments and unknown fields are ignored", async () => {
  const text = ': hello\nevent: a\ndata: {"x": 1}\nid: 7\n\ndata:one\ndata:  two\ndata\n\n\nevent: without data\n\n';
  assert.deepEqual(await eventsOf(Buffer.from(text)), [
    { event: "a", data: '{"x": 1}' },
    { event: "message", data: "one\n two\n" },
  ]);
});

test("an event that the end of the stream cuts off is dropped", async () => {
  assert.deepEqual(await eventsOf(Buffer.from("data: whole\n\ndata: half\n")), [{ event: "message", data: "whole" }]);
});

test("LF, CRLF and CR end lines, wherever the chunks are cut", async () => {
  const line = fc.string({ unit: "grapheme" }).filter((text) => !/[\r\n]/.test(text));
  await fc.assert(
    fc.asyncProperty(
      fc.array(line, { maxLength: 5 }),
      fc.constantFrom("\n", "\r\n", "\r"),
      fc.array(fc.nat(200)),
      async (texts, end, cuts) => {
        const bytes = Buffer.from(texts.map((text) => `event: e${end}data: ${text}${end}${end}`).join(""));
        const places = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length].toSorted((a, b) => a - b);
        const chunks = places.slice(1).map((to, index) => bytes.subarray(places[index], to));
        assert.deepEqual(await eventsOf(...chunks), await eventsOf(bytes));
        // A CR at the very end may be the first half of a CRLF.
        const all = end === "\r" ? texts.slice(0, -1) : texts;
        assert.deepEqual((await eventsOf(bytes)).map(({ data }) => data).slice(0, all.length), all);
      },
    ),
  );
});

test("an endless event is refused", async () => {
  const endless = (async function* () {
    for (;;) yield Buffer.alloc(2 ** 20, "x");
  })();
  await assert.rejects(Array.fromAsync(serverSentEvents(endless)), /longer than 16 MiB/);
});
