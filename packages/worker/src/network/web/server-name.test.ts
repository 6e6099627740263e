import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { assert as holds, property, uint8Array } from "fast-check";
import { clientHello } from "../testing/client-hello.ts";
import { readServerName } from "./server-name.ts";

suite("the name in a TLS client's first message", () => {
  test("is found when the message is whole, and not before", async () => {
    const hello = await clientHello("www.example.com");
    assert.deepEqual(readServerName(hello), { kind: "name", name: "www.example.com" });
    for (let length = 0; length < hello.length; length += 7) {
      assert.deepEqual(readServerName(hello.subarray(0, length)), { kind: "incomplete" });
    }
    assert.deepEqual(readServerName(Buffer.concat([hello, Buffer.from("more")])), {
      kind: "name",
      name: "www.example.com",
    });
  });

  test("is found when the message is split into several records", async () => {
    const hello = (await clientHello("www.example.com")).subarray(5);
    const record = (part: Buffer): Buffer => {
      const header = Buffer.from([22, 3, 1, 0, 0]);
      header.writeUInt16BE(part.length, 3);
      return Buffer.concat([header, part]);
    };
    const parts = [hello.subarray(0, 1), hello.subarray(1, 3), hello.subarray(3, 100), hello.subarray(100)].map(record);
    assert.deepEqual(readServerName(Buffer.concat(parts)), { kind: "name", name: "www.example.com" });
    assert.deepEqual(readServerName(Buffer.concat(parts.slice(0, 3))), { kind: "incomplete" });
  });

  test("may be missing", async () => {
    assert.deepEqual(readServerName(await clientHello()), { kind: "none" });
  });

  for (const other of [
    "GET / HTTP/1.1\r\n",
    "SSH-2.0-OpenSSH\r\n",
    "\x16\x02\x00",
    "\x16\x03\x01\x00\x00",
    "\x15\x03\x01",
  ]) {
    test(`is not in ${JSON.stringify(other)}`, () => {
      assert.deepEqual(readServerName(Buffer.from(other, "latin1")), { kind: "none" });
    });
  }

  test("is looked for in any bytes without harm", async () => {
    const hello = await clientHello("www.example.com");
    holds(
      property(uint8Array({ maxLength: 300 }), (noise) => {
        readServerName(Buffer.from(noise));
        readServerName(Buffer.concat([hello.subarray(0, 9), Buffer.from(noise)]));
        const damaged = Buffer.from(hello);
        damaged.set(noise.subarray(0, hello.length - 43), 43);
        readServerName(damaged);
      }),
      { numRuns: 1000 },
    );
  });
});
