import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { readEvents, type ServerEvent } from "./events.ts";

/** The events that a client reads from a reply in these chunks. */
async function eventsOf(chunks: readonly Uint8Array[], type = "text/event-stream; charset=utf-8") {
  const response = new Response(ReadableStream.from(chunks), { headers: { "content-type": type } });
  // A reply that a test constructs has no address; one that was fetched has.
  Object.defineProperty(response, "url", { value: "http://server.test/api" });
  return await Array.fromAsync(readEvents(response));
}

test("an event has a name and every line of its data; comments keep the connection alive", async () => {
  const text = ': ping\n\nevent: log\ndata: one\ndata: two\ndata:three\n\n: ping\ndata: {"x": 1}\n\nevent: no data\n\n';
  assert.deepEqual(await eventsOf([Buffer.from(text)]), [
    { event: "log", data: "one\ntwo\nthree" },
    { event: "message", data: '{"x": 1}' },
  ]);
});

test("an event that the end of the reply cuts off is dropped", async () => {
  assert.deepEqual(await eventsOf([Buffer.from("data: whole\n\ndata: half\n")]), [{ event: "message", data: "whole" }]);
});

test("a reply of another type is one result", async () => {
  const json = '{"a":\n\n1}';
  assert.deepEqual(await eventsOf([Buffer.from(json)], "application/json"), [{ event: "result", data: json }]);
});

test("LF, CRLF and CR end lines, wherever the chunks are cut", async () => {
  const line = fc.string({ unit: "grapheme" }).filter((text) => !/[\r\n]/.test(text));
  const event = fc.array(line, { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(event, { maxLength: 5 }),
      fc.constantFrom("\n", "\r\n", "\r"),
      fc.array(fc.nat(200)),
      async (events, end, cuts) => {
        const blocks = events.map((lines) => ["event: e", ...lines.map((text) => `data: ${text}`), "", ""].join(end));
        // A comment at the end decides whether the last CR is half of a CRLF.
        const bytes = Buffer.from(`${blocks.join("")}: end${end}`);
        const places = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length].toSorted((a, b) => a - b);
        const chunks = places.slice(1).map((to, index) => bytes.subarray(places[index], to));
        const expected: ServerEvent[] = events.map((lines) => ({ event: "e", data: lines.join("\n") }));
        assert.deepEqual(await eventsOf(chunks), expected);
      },
    ),
  );
});
