import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { examineVsock } from "./examine-vsock.ts";
import { listenOnVsock, type VsockAddress } from "./kernel/sockets.ts";
import { operations, type Packet, RawGuest } from "../testing/raw-guest.ts";

const found = examineVsock();
const skip = found.usable ? false : `${found.reason}; ./test kvm emulates a host that has it`;

/** Above the addresses of every slot. */
const [victimCid, attackerCid] = [2_200_000_000 + process.pid, 2_300_000_000 + process.pid];

suite("connections of guests over vsock", { skip }, () => {
  test("another guest can neither end nor stop an accepted connection, nor write to it", async (t) => {
    using victim = new RawGuest(victimCid);
    using attacker = new RawGuest(attackerCid);
    const { listener, accepted } = listen();
    using _ = listener;
    const socket = await connectionOf(victim, 700, listener.port, accepted);
    t.after(() => socket.destroy());
    const received: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    let isEnded = false;
    for (const event of ["end", "error", "close"]) socket.on(event, () => (isEnded = true));

    const payload = Buffer.from("forged");
    for (const isListening of [true, false]) {
      if (!isListening) listener[Symbol.dispose]();
      // The connection's own port among the source ports, and the victim's address among the source addresses.
      for (const sourcePort of [700, 701]) {
        for (const sourceCid of [attackerCid, victimCid]) {
          for (const op of Object.values(operations)) {
            const SHUT_RDWR = 3;
            const forged = { op, sourcePort, destinationPort: listener.port, flags: SHUT_RDWR };
            await attacker.send({ ...forged, bufferBytes: 0, takenBytes: 1_000_000_000 }, sourceCid);
            await attacker.send({ ...forged, ...(op === operations.rw ? { payload } : {}) }, sourceCid);
          }
        }
      }
      await attacker.flushed();
      await eventually("the kernel has answered", () => attacker.received().length > 0);
      await sleep(100);
      // More than the credit that a forged packet reports.
      const large = Buffer.alloc(100_000, "0123456789");
      socket.write(large);
      assert.deepEqual(await take(victim, large.length), large);
      await victim.send({ ...packetOf(700, listener.port), op: operations.rw, payload: Buffer.from("genuine") });
      await eventually("the host receives", () => Buffer.concat(received).length >= "genuine".length);
      assert.equal(String(Buffer.concat(received.splice(0))), "genuine");
      assert.equal(isEnded, false);
    }
  });

  test("a flood of connections to every known port of the host reaches nothing", async (t) => {
    using victim = new RawGuest(victimCid);
    using attacker = new RawGuest(attackerCid);
    const { listener, accepted } = listen();
    const socket = await connectionOf(victim, 700, listener.port, accepted);
    t.after(() => socket.destroy());
    listener[Symbol.dispose]();
    const ports = [...Array.from({ length: 10_000 }, (_, index) => index + 1), listener.port];
    let refused = 0;
    for (const port of ports) {
      await attacker.send({ ...packetOf(900, port), op: operations.request });
      refused += attacker.received().filter(({ op }) => op === operations.rst).length;
    }
    await eventually("each is refused", () => {
      refused += attacker.received().filter(({ op }) => op === operations.rst).length;
      return refused === ports.length;
    });
    socket.write("still here");
    assert.equal(String(await take(victim, "still here".length)), "still here");
  });
});

function packetOf(sourcePort: number, destinationPort: number): Omit<Packet, "op"> {
  return { sourcePort, destinationPort };
}

/** A listener that keeps the victim's connections and closes others at once. */
function listen() {
  const accepted: { readonly socket: Socket; readonly peer: VsockAddress }[] = [];
  const listener = listenOnVsock((socket, peer) => {
    if (peer.cid === victimCid) accepted.push({ socket, peer });
    else socket.destroy();
  });
  return { listener, accepted };
}

async function connectionOf(
  guest: RawGuest,
  from: number,
  to: number,
  accepted: ReturnType<typeof listen>["accepted"],
): Promise<Socket> {
  await guest.send({ ...packetOf(from, to), op: operations.request });
  await guest.receive("response");
  await eventually("the host accepts", () => accepted.length === 1);
  const [{ socket, peer } = assert.fail()] = accepted;
  assert.deepEqual(peer, { cid: guest.cid, port: from });
  socket.resume();
  return socket;
}

/** The next bytes that the guest receives. */
async function take(guest: RawGuest, bytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  const taken = (): number => parts.reduce((sum, { length }) => sum + length, 0);
  while (taken() < bytes) parts.push(Buffer.from((await guest.receive("rw")).payload ?? []));
  return Buffer.concat(parts);
}
