import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { bytesOfPath, textOfPath } from "./path-bytes.ts";

const bytesOf = (text: string): Buffer => Buffer.from(bytesOfPath(text));

test("every name that a file system can hold comes back byte for byte", () => {
  const name = fc.oneof(
    fc.uint8Array({ minLength: 1 }),
    fc.string({ unit: "binary" }).map((text) => Buffer.from(text)),
    fc.constant(Buffer.from("\u{10ff80}a\u{10ffff}")),
  );
  fc.assert(
    fc.property(name, (bytes) => {
      const text = textOfPath(Buffer.from(bytes));
      assert.ok(text.isWellFormed(), "it can be sent as UTF-8");
      assert.deepEqual(bytesOf(text), Buffer.from(bytes));
    }),
  );
});

test("two names never have the same text", () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
      const same = Buffer.from(a).equals(Buffer.from(b));
      assert.equal(textOfPath(Buffer.from(a)) === textOfPath(Buffer.from(b)), same);
    }),
  );
});

test("a name in UTF-8 is its own text", () => {
  for (const name of ["plain", "Grüße", "名前", "😀", "a%ff b"]) {
    assert.equal(textOfPath(Buffer.from(name)), name);
    assert.equal(bytesOfPath(name), name);
  }
});
