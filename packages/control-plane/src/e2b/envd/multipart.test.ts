import assert from "node:assert/strict";
import { test } from "node:test";
import { boundaryOf, partsOf } from "./multipart.ts";

async function* inChunks(text: string, size: number): AsyncGenerator<Uint8Array> {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function read(text: string, size: number): Promise<[string, string | undefined, string][]> {
  const parts: [string, string | undefined, string][] = [];
  for await (const { name, filename, content } of partsOf(inChunks(text, size), "XX")) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of content) chunks.push(chunk);
    parts.push([name, filename, Buffer.concat(chunks).toString("utf8")]);
  }
  return parts;
}

const body = [
  "--XX",
  'Content-Disposition: form-data; name="file"; filename="dir/ä%22.txt"',
  "Content-Type: text/plain",
  "",
  "one\r\n--X\r\ntwo",
  "--XX",
  'Content-Disposition: form-data; name="file"',
  "",
  "",
  "--XX--",
  "",
].join("\r\n");

test("parts arrive whole, however the body is cut", async () => {
  for (const size of [1, 2, 3, 7, 64, 4096]) {
    assert.deepEqual(await read(body, size), [
      ["file", 'dir/ä".txt', "one\r\n--X\r\ntwo"],
      ["file", undefined, ""],
    ]);
  }
});

test("a part that is not read to its end does not disturb the next one", async () => {
  const names: (string | undefined)[] = [];
  for await (const { filename } of partsOf(inChunks(body, 5), "XX")) names.push(filename);
  assert.deepEqual(names, ['dir/ä".txt', undefined]);
});

test("a body that is cut off, or is not a form, is refused", async () => {
  for (const text of [body.slice(0, -10), "", "--XXnothing", "--XX\r\nContent-Type: a\r\n\r\n\r\n--XX--"]) {
    await assert.rejects(read(text, 16), { code: "invalid_argument" });
  }
});

test("a boundary may be quoted", () => {
  assert.equal(boundaryOf("multipart/form-data; boundary=abc"), "abc");
  assert.equal(boundaryOf('multipart/form-data; charset=utf-8; boundary="a b"'), "a b");
  assert.equal(boundaryOf("application/octet-stream"), undefined);
});
