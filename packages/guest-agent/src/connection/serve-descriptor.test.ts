import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { deviceSocket } from "#system/kernel/device-socket.ts";
import { openSocketPair } from "#system/kernel/libc.ts";
import { serveDescriptor } from "./serve-descriptor.ts";

const proof = Buffer.from("the proof");

/** A connection to a host, at whose end the test is. */
function connect(t: TestContext) {
  const [descriptor, other] = openSocketPair();
  const { socket: host } = deviceSocket(other);
  host.on("error", () => undefined);
  t.after(() => host.destroy());
  let sessions = 0;
  const received: Uint8Array[] = [];
  const served = serveDescriptor(
    descriptor,
    (transport) => {
      sessions += 1;
      void transport.write(Buffer.from("hello"));
      return { receive: (chunk) => received.push(chunk), close: () => undefined };
    },
    { proof },
  );
  return { host, served, received, sessions: () => sessions };
}

test("an agent serves a host that proves itself, from the byte after the proof on", async (t) => {
  const { host, served, received } = connect(t);
  for (const byte of proof.subarray(0, 3)) host.write(Buffer.of(byte));
  host.write(Buffer.concat([proof.subarray(3), Buffer.from("frames")]));
  const [greeting] = (await within("the agent greets", once(host, "data"))) as [Buffer];
  assert.equal(String(greeting), "hello");
  await within("the proof is accepted", served.proved);
  assert.equal(String(Buffer.concat(received)), "frames");
});

test("an agent serves no host that does not prove itself", async (t) => {
  const { host, served, sessions } = connect(t);
  host.on("data", () => assert.fail("the agent sent bytes"));
  host.write(Buffer.concat([proof.subarray(0, -1), Buffer.from("!")]));
  await within("the agent disconnects", once(host, "close"));
  await assert.rejects(served.proved, /before the host had proved itself/);
  assert.equal(sessions(), 0);
});
