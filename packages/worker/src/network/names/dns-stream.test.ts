import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { array, assert as holds, integer, property, uint8Array } from "fast-check";
import { MessageReader, MessageTooLong, withLength } from "./dns-stream.ts";

suite("DNS over TCP", () => {
  test("chunk boundaries do not change the messages", () => {
    holds(
      property(
        array(uint8Array({ maxLength: 40 }), { maxLength: 8 }),
        array(integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 20 }),
        (messages, sizes) => {
          const stream = Buffer.concat(messages.map((message) => withLength(Buffer.from(message))));
          const reader = new MessageReader();
          const read: Buffer[] = [];
          for (let at = 0, turn = 0; at < stream.length; turn += 1) {
            const size = sizes[turn % sizes.length]!;
            read.push(...reader.push(stream.subarray(at, at + size)));
            at += size;
          }
          assert.deepEqual(
            read.map((message) => message.toString("hex")),
            messages.map((message) => Buffer.from(message).toString("hex")),
          );
        },
      ),
    );
  });

  test("a message that is too long is refused as soon as its length is known", () => {
    const reader = new MessageReader(4096);
    reader.push(Buffer.from([0x10]));
    assert.throws(() => reader.push(Buffer.from([0x01])), MessageTooLong);
    assert.equal(new MessageReader(4096).push(withLength(Buffer.alloc(4096))).length, 1);
  });

  test("any bytes give messages or MessageTooLong", () => {
    holds(
      property(array(uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
        const reader = new MessageReader(512);
        let bytes = 0;
        try {
          for (const chunk of chunks) {
            for (const message of reader.push(Buffer.from(chunk))) bytes += message.length + 2;
          }
        } catch (error) {
          assert.ok(error instanceof MessageTooLong);
        }
        assert.ok(bytes <= chunks.reduce((sum, { length }) => sum + length, 0));
      }),
    );
  });
});
