import assert from "node:assert/strict";
import { test } from "node:test";
import { signatureOf } from "./file-transfer.ts";

test("a URL is signed as the published clients sign it", () => {
  const url = {
    path: "hello.txt",
    operation: "read",
    username: "user",
    token: "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0",
    expiration: undefined,
  } as const;
  assert.equal(signatureOf(url), "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E");
});
