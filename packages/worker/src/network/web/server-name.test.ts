import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { array, assert as holds, integer, property, uint8Array } from "fast-check";
import { clientHello } from "../testing/client-hello.ts";
import { HelloReader, maxHelloBytes, type ServerName } from "./server-name.ts";

const name = "www.example.com";

function read(...chunks: readonly Buffer[]): ServerName {
  const reader = new HelloReader();
  let found = reader.push(Buffer.alloc(0));
  for (const chunk of chunks) found = reader.push(chunk);
  assert.deepEqual(reader.received, Buffer.concat(chunks));
  return found;
}

function record(part: Buffer): Buffer {
  const header = Buffer.from([22, 3, 1, 0, 0]);
  header.writeUInt16BE(part.length, 3);
  return Buffer.concat([header, part]);
}

/** A hello in one record, with these extensions after its own. */
async function helloWith(...added: readonly Buffer[]): Promise<Buffer> {
  const handshake = (await clientHello(name)).subarray(5);
  const session = 4 + 2 + 32;
  const ciphers = session + 1 + handshake[session]!;
  const compression = ciphers + 2 + handshake.readUInt16BE(ciphers);
  const extensions = compression + 1 + handshake[compression]!;
  const changed = Buffer.concat([handshake, ...added]);
  changed.writeUIntBE(changed.length - 4, 1, 3);
  changed.writeUInt16BE(changed.length - extensions - 2, extensions);
  return record(changed);
}

function extension(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16BE(type, 0);
  header.writeUInt16BE(data.length, 2);
  return Buffer.concat([header, data]);
}

function serverNames(...names: readonly string[]): Buffer {
  const entries = names.map((text) => Buffer.concat([Buffer.from([0, 0, text.length]), Buffer.from(text)]));
  const list = Buffer.concat(entries);
  return extension(0, Buffer.concat([Buffer.from([0, list.length]), list]));
}

suite("the name in a TLS client's first message", () => {
  test("is found when the message is complete, and not before", async () => {
    const hello = await clientHello(name);
    assert.deepEqual(read(hello), { kind: "name", name });
    for (let length = 0; length < hello.length; length += 7) {
      assert.deepEqual(read(hello.subarray(0, length)), { kind: "incomplete" });
    }
    assert.deepEqual(read(Buffer.concat([hello, Buffer.from("more")])), { kind: "name", name });
    assert.deepEqual(read(hello, Buffer.from("more")), { kind: "name", name });
  });

  test("is found when the message is split into several records", async () => {
    const hello = (await clientHello(name)).subarray(5);
    const parts = [hello.subarray(0, 1), hello.subarray(1, 3), hello.subarray(3, 100), hello.subarray(100)].map(record);
    assert.deepEqual(read(Buffer.concat(parts)), { kind: "name", name });
    assert.deepEqual(read(Buffer.concat(parts.slice(0, 3))), { kind: "incomplete" });
  });

  test("is not looked for in more than 16 records", async () => {
    const hello = (await clientHello(name)).subarray(5);
    const bytes = [...hello].map((byte) => record(Buffer.from([byte])));
    assert.deepEqual(read(...bytes.slice(0, 16)), { kind: "incomplete" });
    assert.equal(read(...bytes.slice(0, 17)).kind, "none");
  });

  test("is not looked for in more than 32 KiB", () => {
    const hello = Buffer.alloc(4 + maxHelloBytes + 1);
    hello[0] = 1;
    hello.writeUIntBE(maxHelloBytes + 1, 1, 3);
    assert.equal(read(record(hello.subarray(0, 100))).kind, "none");
    hello.writeUIntBE(maxHelloBytes, 1, 3);
    assert.equal(read(record(hello.subarray(0, 16_384))).kind, "incomplete");
  });

  test("may be missing", async () => {
    assert.equal(read(await clientHello()).kind, "none");
    assert.equal(read(await helloWith()).kind, "name");
  });

  for (const [what, added] of [
    ["a second extension for names", serverNames("other.example")],
    ["the same name twice", serverNames(name)],
    ["an encrypted client hello", extension(0xfe0d, Buffer.alloc(40))],
    ["an encrypted client hello of the draft", extension(0xffce, Buffer.alloc(40))],
    ["a list of names that is longer than its extension", extension(0, Buffer.from([0, 9, 0, 0, 1]))],
    ["an extension that is longer than the message", Buffer.from([0, 99, 0xff, 0xff])],
  ] as const) {
    test(`is not accepted beside ${what}`, async () => {
      assert.equal(read(await helloWith(added)).kind, "none");
    });
  }

  test("is not accepted in a list of two", async () => {
    const hello = await clientHello(name);
    const twice = Buffer.from(hello.toString("latin1").replace(name, "a.com\0\0\x05b.com\0\0"), "latin1");
    const at = hello.indexOf(name) - 2;
    twice.writeUInt16BE(5, at);
    twice.set([0, 0, 7], at + 7);
    assert.equal(read(twice).kind, "none");
  });

  for (const other of [
    "GET / HTTP/1.1\r\n",
    "SSH-2.0-OpenSSH\r\n",
    "\x16\x02\x00",
    "\x16\x03\x01\x00\x00",
    "\x15\x03\x01",
  ]) {
    test(`is not in ${JSON.stringify(other)}`, () => {
      assert.equal(read(Buffer.from(other, "latin1")).kind, "none");
    });
  }

  test("does not depend on chunk boundaries", async () => {
    const hello = await helloWith(extension(21, Buffer.alloc(300)));
    holds(
      property(array(integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 10 }), (sizes) => {
        const chunks: Buffer[] = [];
        for (let at = 0; at < hello.length; at += chunks.at(-1)!.length) {
          chunks.push(hello.subarray(at, at + sizes[chunks.length % sizes.length]!));
        }
        assert.deepEqual(read(...chunks), { kind: "name", name });
      }),
    );
  });

  test("costs a few copies of each byte, whatever the chunks", (t) => {
    const header = Buffer.from([1, 0, 0, 0]);
    header.writeUIntBE(maxHelloBytes - 16, 1, 3);
    const hello = Buffer.concat([header, Buffer.alloc(maxHelloBytes - 20)]);
    const size = 8000;
    const records = Array.from({ length: Math.ceil(hello.length / size) }, (_, at) =>
      record(hello.subarray(at * size, (at + 1) * size)),
    );
    const bytes = Buffer.concat(records);
    let copied = 0;
    const copy = Buffer.prototype.copy;
    t.mock.method(Buffer.prototype, "copy", function (this: Buffer, ...to: Parameters<typeof copy>) {
      const count = copy.apply(this, to);
      copied += count;
      return count;
    });
    const reader = new HelloReader();
    for (const byte of bytes) reader.push(Buffer.of(byte));
    assert.ok(copied >= bytes.length && copied <= 6 * bytes.length, `${copied / bytes.length} copies`);
    assert.equal(reader.received.length, bytes.length);
  });

  test("is looked for in any bytes without an error", async () => {
    const hello = await clientHello(name);
    holds(
      property(uint8Array({ maxLength: 300 }), (noise) => {
        read(Buffer.from(noise));
        read(hello.subarray(0, 9), Buffer.from(noise));
        const damaged = Buffer.from(hello);
        damaged.set(noise.subarray(0, hello.length - 43), 43);
        read(damaged);
      }),
      { numRuns: 1000 },
    );
  });
});
