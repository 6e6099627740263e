import assert from "node:assert/strict";
import { test } from "node:test";
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
