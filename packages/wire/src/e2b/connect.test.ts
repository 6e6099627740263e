import assert from "node:assert/strict";
import { test } from "node:test";
import { endEnvelopeOf, envelopeOf, messageIn } from "./connect.ts";

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

test("an envelope carries its message", () => {
  const body = envelopeOf({ process: { pid: 7 } });
  assert.deepEqual([...body.subarray(0, 5)], [0, 0, 0, 0, 21]);
  const { bytes, compressed } = messageIn(body);
  assert.equal(textOf(bytes), '{"process":{"pid":7}}');
  assert.equal(compressed, false);
});

test("the end of a stream carries its failure", () => {
  assert.deepEqual([...endEnvelopeOf().subarray(0, 5)], [2, 0, 0, 0, 2]);
  const failed = messageIn(endEnvelopeOf({ code: "deadline_exceeded", message: "late" }));
  assert.equal(textOf(failed.bytes), '{"error":{"code":"deadline_exceeded","message":"late"}}');
});

test("a body that is cut off is refused", () => {
  const body = envelopeOf({ a: 1 });
  for (const length of [0, 4, body.length - 1]) {
    assert.throws(() => messageIn(body.subarray(0, length)), { code: "invalid_argument" });
  }
});
