import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { array, constantFrom, assert as holds, integer, oneof, property, uint8Array } from "fast-check";
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
  test("is parsed as its only question", () => {
    const question = parseQuestion(query("WWW.Example.com"));
    assert.equal(question?.name, "www.example.com");
    assert.equal(question.type, recordTypes.a);
    assert.equal(question.class, 1);
    assert.equal(question.id, 0x1234);
    assert.equal(question.datagramBytes, 512);
    assert.equal(question.extended, false);
  });

  test("is forwarded with its question only, and with a datagram size that fits everywhere", () => {
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

  test("with a character that host names do not have has no name", () => {
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

  test("that is a response, has several questions or another opcode is refused", () => {
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

  test("above 4 KiB is refused, and options behind 16 records are not read", () => {
    const option = Buffer.from([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    const withRecords = (count: number, padding: number): Buffer => {
      const message = Buffer.concat([query("a.example"), ...Array<Buffer>(count).fill(option), Buffer.alloc(padding)]);
      message.writeUInt16BE(count, 10);
      return message;
    };
    assert.equal(parseQuestion(withRecords(1, 0))?.extended, true);
    assert.equal(parseQuestion(withRecords(17, 0))?.extended, false);
    assert.ok(parseQuestion(withRecords(1, 3000)) !== undefined);
    assert.equal(parseQuestion(withRecords(1, 4096)), undefined);
  });

  test("gets a refusal that answers its question", () => {
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
  test("with compressed names is parsed", () => {
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

  test("whose names point in circles is refused", () => {
    const header = Buffer.from([0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    for (const name of [
      [0xc0, 12],
      [1, 0x61, 0xc0, 12],
      [0xc0, 14, 0xc0, 12],
    ]) {
      assert.equal(parseRecords(Buffer.concat([header, Buffer.from([...name, 0, 1, 0, 1])])), undefined);
    }
  });

  test("that names one long chain of pointers thousands of times is refused", () => {
    // 8,176 pointers, each to the one before, in the data of a record; then 3,473 CNAME records that name the last.
    const chain = Buffer.alloc(2 * 8176);
    const chainAt = 12 + 11;
    for (let index = 1; index < 8176; index += 1) {
      chain.writeUInt16BE(0xc000 | (chainAt + 2 * (index - 1)), 2 * index);
    }
    const last = 0xc000 | (chainAt + 2 * 8175);
    const holder = Buffer.from([0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]);
    holder.writeUInt16BE(chain.length, 9);
    const alias = Buffer.from([0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0]);
    alias.writeUInt16BE(last, 0);
    alias.writeUInt16BE(last, 12);
    const header = Buffer.from([0, 1, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
    const message = (aliases: number): Buffer => {
      header.writeUInt16BE(aliases + 1, 6);
      return Buffer.concat([header, holder, chain, ...Array<Buffer>(aliases).fill(alias)]);
    };
    assert.equal(message(3473).length, 64_997);
    assert.equal(parseRecords(message(3473)), undefined);
    assert.equal(parseRecords(message(0))?.length, 1);
  });

  test("with thousands of addresses of one name is parsed", () => {
    const header = Buffer.from([0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    header.writeUInt16BE(2500, 6);
    const question = Buffer.concat([encodeName("www.a.example"), Buffer.from([0, 1, 0, 1])]);
    const address = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10]);
    const message = Buffer.concat([header, question, ...Array<Buffer>(2500).fill(address)]);
    assert.equal(parseRecords(message)?.length, 2500);
  });
});

suite("any bytes", () => {
  test("are parsed as a DNS message without an error", () => {
    holds(
      property(uint8Array({ maxLength: 600 }), (bytes) => {
        parseRecords(Buffer.from(bytes));
        parseQuestion(Buffer.from(bytes));
      }),
      { numRuns: 2000 },
    );
  });

  test("behind a valid header are parsed without an error, and never as more records than fit", () => {
    // Small lengths and pointers are likely, so that names and records overlap.
    const byte = oneof(integer({ min: 0, max: 12 }), constantFrom(0xc0, 0xff), integer({ min: 0, max: 255 }));
    holds(
      property(array(byte, { maxLength: 2000 }), integer({ min: 0, max: 200 }), (bytes, records) => {
        const header = Buffer.from([0, 1, 0x81, 0x80, 0, 1, 0, records, 0, records, 0, records]);
        const parsed = parseRecords(Buffer.concat([header, Buffer.from(bytes)]));
        assert.ok((parsed?.length ?? 0) * 11 <= bytes.length);
      }),
      { numRuns: 2000 },
    );
  });
});
