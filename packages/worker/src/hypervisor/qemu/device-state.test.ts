import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { withoutVsock } from "./device-state.ts";

function section(number: number, name: string, data: Buffer): Buffer {
  const header = Buffer.alloc(6 + name.length + 8);
  header[0] = 4;
  header.writeUInt32BE(number, 1);
  header[5] = name.length;
  header.write(name, 6, "latin1");
  const footer = Buffer.alloc(5);
  footer[0] = 0x7e;
  footer.writeUInt32BE(number, 1);
  return Buffer.concat([header, data, footer]);
}

const first = section(27, "0000:00:07.0/virtio-mem", Buffer.from("memory"));
// Its data contains a footer of its own number that no section follows.
const vsock = section(
  28,
  "0000:00:08.0/virtio-vhost_vsock",
  Buffer.concat([Buffer.of(0x7e, 0, 0, 0, 28, 4, 0, 0, 0, 3, 9, 0, 1), Buffer.alloc(50, 4)]),
);
const last = section(29, "globalstate", Buffer.from("running"));
const begin = Buffer.from("QEVM\0\0\0\u0003", "latin1");
const end = Buffer.of(0);

test("the section of the vsock device goes, and every other byte stays", () => {
  const state = Buffer.concat([begin, first, vsock, last, end]);
  assert.deepEqual(withoutVsock(state), Buffer.concat([begin, first, last, end]));
});

test("a state without the section, or with a part of it, is refused", () => {
  const refused = (error: unknown): boolean => isSandboxError(error, "incompatible");
  assert.throws(() => withoutVsock(Buffer.concat([begin, first, last, end])), refused);
  assert.throws(() => withoutVsock(Buffer.concat([begin, first, vsock.subarray(0, -20)])), refused);
  assert.throws(() => withoutVsock(Buffer.from("/virtio-vhost_vsock")), refused);
});
