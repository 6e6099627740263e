import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { assert as holds, property, uint8Array } from "fast-check";
import { encodeName, query } from "../testing/fake-resolver.ts";
import {
  answersQuestion,
  encodeQuery,
  encodeRefusal,
  parseQuestion,
  parseRecords,
  recordTypes,
  responseCodes,
} from "./dns-message.ts";

suite("a DNS query", () => {
  test("is its one question", () => {
    const question = parseQuestion(query("WWW.Example.com"));
    assert.equal(question?.name, "www.example.com");
    assert.equal(question.type, recordTypes.a);
    assert.equal(question.class, 1);
    assert.equal(question.id, 0x1234);
    assert.equal(question.datagramBytes, 512);
    assert.equal(question.extended, false);
  });

  test("goes on with nothing of the guest's but the question, and a size that fits everywhere", () => {
    const option = Buffer.concat([Buffer.from([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 4]), Buffer.from([0, 65, 0, 0])]);
    const extended = Buffer.concat([query("a.example"), option]);
    extended.writeUInt16BE(1, 10);
    const question = parseQuestion(extended);
    assert.ok(question !== undefined);
    assert.equal(question.datagramBytes, 4096);
    const asked = encodeQuery(question, 7);
    assert.deepEqual(parseQuestion(asked), { ...question, id: 7, datagramBytes: 1232 });
    assert.equal(asked.length, query("a.example").length + 11);
  });

  test("with a character that no host name has is not that of a name", () => {
    for (const name of ["exa mple.com", "a\0.com", "ä.com"]) assert.equal(parseQuestion(query(name))?.name, undefined);
    const dotted = Buffer.concat([
      query("x").subarray(0, 12),
      Buffer.from([3]),
      Buffer.from("a.b"),
      Buffer.from([0, 0, 1, 0, 1]),
    ]);
    assert.ok(parseQuestion(dotted) !== undefined);
    assert.equal(parseQuestion(dotted)?.name, undefined);
  });

  test("that is an answer, or has several questions, or another operation, is none", () => {
    for (const [at, value] of [
      [2, 0x8100],
      [2, 0x2900],
      [4, 2],
      [4, 0],
    ] as const) {
      const message = query("a.example");
      message.writeUInt16BE(value, at);
      assert.equal(parseQuestion(message), undefined);
    }
  });

  test("that is refused is answered as one that was asked", () => {
    const question = parseQuestion(query("a.example"));
    assert.ok(question !== undefined);
    const refusal = encodeRefusal(question, responseCodes.nameError);
    assert.ok(answersQuestion(refusal, question, question.id));
    assert.equal(answersQuestion(refusal, question, 1), false);
    assert.equal(refusal.readUInt16BE(2), 0x8183);
    assert.deepEqual(parseRecords(refusal), []);
  });
});

suite("a DNS answer", () => {
  test("has names that point back to others", () => {
    const header = Buffer.from([0, 1, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
    const question = Buffer.concat([encodeName("a.example"), Buffer.from([0, 1, 0, 1])]);
    const alias = Buffer.from([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 0x62, 0xc0, 14]);
    const address = Buffer.from([0xc0, 39, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10]);
    const records = parseRecords(Buffer.concat([header, question, alias, address]));
    assert.deepEqual(
      records?.map(({ name, type, ttl, target }) => ({ name, type, ttl, target })),
      [
        { name: "a.example", type: 5, ttl: 9, target: "b.example" },
        { name: "b.example", type: 1, ttl: 60, target: undefined },
      ],
    );
  });

  test("whose names go round in circles is none", () => {
    const header = Buffer.from([0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    for (const name of [
      [0xc0, 12],
      [1, 0x61, 0xc0, 12],
      [0xc0, 14, 0xc0, 12],
    ]) {
      assert.equal(parseRecords(Buffer.concat([header, Buffer.from([...name, 0, 1, 0, 1])])), undefined);
    }
  });

  test("of any bytes is read without harm", () => {
    holds(
      property(uint8Array({ maxLength: 600 }), (bytes) => {
        parseRecords(Buffer.from(bytes));
        parseQuestion(Buffer.from(bytes));
      }),
      { numRuns: 2000 },
    );
  });
});
