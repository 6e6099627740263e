import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { forwardedHeaders, forwardedRequestHeaders } from "./forwarded-headers.ts";

test("hop-by-hop headers are removed, and the others stay as written", () => {
  assert.deepEqual(
    forwardedHeaders([
      ...["Host", "a.example", "Connection", "keep-alive, X-Mine", "keep-alive", "timeout=5", "x-mine", "1"],
      ...["Set-Cookie", "a=1", "Set-Cookie", "b=2", "TE", "trailers", "Upgrade", "h2c", "X-Other", "kept"],
    ]),
    ["Host", "a.example", "Set-Cookie", "a=1", "Set-Cookie", "b=2", "X-Other", "kept"],
  );
});

test("the end of a body is always marked", () => {
  assert.deepEqual(forwardedRequestHeaders("GET", ["transfer-encoding", "chunked"]), ["Transfer-Encoding", "chunked"]);
  assert.deepEqual(forwardedRequestHeaders("POST", ["Content-Length", "3"]), ["Content-Length", "3"]);
  assert.deepEqual(forwardedRequestHeaders("POST", []), ["Content-Length", "0"]);
  assert.deepEqual(forwardedRequestHeaders("GET", ["a", "b"]), ["a", "b"]);
});

test("headers of any names and values are forwarded without an error, and never a header of the connection", () => {
  const word = fc.oneof(fc.constantFrom("connection", "Upgrade", "TE", "x", "__proto__", "close, x"), fc.string());
  fc.assert(
    fc.property(fc.array(word, { maxLength: 20 }), fc.constantFrom("GET", "POST"), (raw, method) => {
      const pairs = forwardedHeaders(raw);
      assert.ok(pairs.length <= raw.length && pairs.length % 2 === 0);
      assert.ok(
        !pairs.some((name, at) => at % 2 === 0 && ["connection", "upgrade", "te"].includes(name.toLowerCase())),
      );
      assert.ok(forwardedRequestHeaders(method, raw).length <= pairs.length + 2);
    }),
  );
});
