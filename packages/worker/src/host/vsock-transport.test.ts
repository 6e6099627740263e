import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, type Stream } from "@opensandbox/wire/guest/channel.ts";
import { frameTypes } from "@opensandbox/wire/guest/frame.ts";
import { HelloSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { methods, protocolVersion } from "@opensandbox/wire/guest/methods.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import type { ListenOnVsock, VsockAddress } from "./kernel/sockets.ts";
import { vsockTransport } from "./vsock-transport.ts";

const inTime = (): AbortSignal => AbortSignal.timeout(20_000);

const own = { cid: 77, port: 900 };

/** A guest whose agent is this process: a virtio-serial port and a host's vsock listeners, on unix sockets. */
async function startGuest(t: TestContext, version: number, answer: (request: Asked, stream: Stream) => Promise<void>) {
  const directory = await mkdtemp(join(tmpdir(), "osb-vsock-"));
  t.after(() => rm(directory, { recursive: true }));
  const serial = join(directory, "agent.sock");
  /** Addresses of the connections to come, in their order. */
  const peers: VsockAddress[] = [];
  const onSerial: Socket[] = [];
  const ports: number[] = [];

  function serve(socket: Socket): Channel {
    const hello = (): void => {
      const payload = toBinary(HelloSchema, create(HelloSchema, { protocolVersion: version }));
      channel.send(frameTypes.hello, 0, 0, payload)?.catch(() => undefined);
    };
    const channel: Channel = new Channel(
      { write: (bytes) => void socket.write(bytes) },
      {
        hello(_, epoch) {
          channel.startEpoch(epoch, new SandboxError("unavailable", "another epoch"));
          hello();
        },
        opened(stream, method, bytes) {
          assert.equal(method, methods.connectVsock.id);
          const { port, proof } = fromBinary(methods.connectVsock.request, bytes);
          ports.push(port);
          const dial = (from: VsockAddress): Socket => {
            peers.push(from);
            return connect(`${serial}.${port}`).on("error", () => undefined);
          };
          answer({ proof, dial, restart: () => serve(socket) }, stream).catch((error: unknown) => stream.refuse(error));
        },
      },
    );
    socket.removeAllListeners("data");
    socket.on("data", (chunk: Buffer) => channel.receive(chunk));
    hello();
    return channel;
  }
  const server = createServer((socket) => {
    onSerial.push(socket);
    socket.on("error", () => undefined);
    serve(socket);
  });
  t.after(() => server.close());
  server.listen(serial);
  await once(server, "listening");

  let next = 1;
  let listeners = 0;
  const listen: ListenOnVsock = (onConnection) => {
    const port = (next += 1);
    const listener = createServer({ pauseOnConnect: true }, (socket) => {
      onConnection(socket, peers.shift() ?? assert.fail("nobody has connected"));
    });
    listener.listen(`${serial}.${port}`);
    listeners += 1;
    return {
      port,
      [Symbol.dispose]() {
        if (listener.listening) listeners -= 1;
        listener.close();
      },
    };
  };
  return { transport: vsockTransport(own.cid, serial, listen), onSerial, ports, listeners: () => listeners };
}

interface Asked {
  readonly proof: Uint8Array;
  readonly dial: (from: VsockAddress) => Socket;
  readonly restart: () => void;
}

/** Connects as an agent does. */
async function greet({ proof, dial }: Asked, from = own): Promise<void> {
  const socket = dial(from);
  const [received] = (await within("the host proves itself", once(socket, "data"))) as [Buffer];
  assert.deepEqual(received, Buffer.from(proof));
  socket.write("greeting");
}

async function firstBytes(socket: Socket): Promise<string> {
  const data = once(socket, "data");
  socket.resume();
  return String(((await within("the socket is read", data)) as [Buffer])[0]);
}

test("an agent connects by vsock when it is asked over virtio-serial, whose connection then ends", async (t) => {
  const { transport, onSerial, ports, listeners } = await startGuest(t, protocolVersion, async (asked) => greet(asked));
  const socket = await transport.open(inTime());
  t.after(() => socket.destroy());
  assert.equal(await firstBytes(socket), "greeting");
  await eventually("the conversation ends", () => onSerial[0]?.destroyed === true && listeners() === 0);
  const second = await transport.open(inTime());
  t.after(() => second.destroy());
  // Neither the listener's port nor its proof is used twice.
  assert.equal(new Set(ports).size, 2);
});

test("connections of other guests, and from ports that any process of the guest may use, are closed unread", async (t) => {
  const { transport } = await startGuest(t, protocolVersion, async (asked) => {
    for (const from of [
      { ...own, cid: 78 },
      { ...own, port: 1024 },
      { cid: 1, port: 900 },
    ]) {
      const stranger = asked.dial(from);
      stranger.on("data", () => assert.fail("a stranger received bytes"));
      await within("the stranger is disconnected", once(stranger, "close"));
    }
    await greet(asked);
  });
  const socket = await transport.open(inTime());
  t.after(() => socket.destroy());
  assert.equal(await firstBytes(socket), "greeting");
});

test("an agent of an older version is reached over virtio-serial, and is not asked", async (t) => {
  const { transport, onSerial, ports } = await startGuest(t, 3, async () => assert.fail("it was asked"));
  const reported: string[] = [];
  for (const count of [1, 2]) {
    const socket = await transport.open(inTime(), (message) => reported.push(message));
    assert.ok((await firstBytes(socket)).length > 0);
    // The first time, another connection asked for the version.
    assert.equal(onSerial.length, count + 1);
    socket.destroy();
  }
  assert.deepEqual([ports, reported], [[], []]);
});

test("an agent without vsock is reached over virtio-serial, and is asked once", async (t) => {
  const { transport, ports } = await startGuest(t, protocolVersion, async () => {
    throw new SandboxError("not_supported", "the machine has no vsock");
  });
  const reported: string[] = [];
  for (let count = 0; count < 2; count += 1) {
    const socket = await transport.open(inTime(), (message) => reported.push(message));
    assert.ok((await firstBytes(socket)).length > 0);
    socket.destroy();
  }
  assert.deepEqual([ports.length, reported], [1, []]);
});

test("an agent whose connections fail is asked again, and then reached over virtio-serial, which is reported", async (t) => {
  let failures = 4;
  const { transport, ports } = await startGuest(t, protocolVersion, async (asked) => {
    if ((failures -= 1) >= 0) throw new SandboxError("unavailable", "no route");
    await greet(asked);
  });
  const reported: unknown[] = [];
  const report = (message: string, error: unknown) => reported.push([message, (error as Error).message]);
  const first = await transport.open(inTime(), report);
  t.after(() => first.destroy());
  assert.deepEqual([await firstBytes(first), ports.length, reported], ["greeting", 5, []]);
  failures = 5;
  const second = await transport.open(inTime(), report);
  t.after(() => second.destroy());
  assert.ok((await firstBytes(second)).length > 0);
  assert.deepEqual(reported, [["the guest agent did not connect by vsock: its channel is virtio-serial", "no route"]]);
});

test("an agent that is restarted after it was asked is asked again", async (t) => {
  let restarts = 1;
  const { transport, ports } = await startGuest(t, protocolVersion, async (asked) => {
    if ((restarts -= 1) >= 0) asked.restart();
    else await greet(asked);
  });
  const socket = await transport.open(inTime());
  t.after(() => socket.destroy());
  assert.deepEqual([await firstBytes(socket), ports.length], ["greeting", 2]);
});

test("a wait for a connection ends with its signal, and leaves neither listener nor connection", async (t) => {
  const { promise, resolve } = Promise.withResolvers<Asked>();
  const { transport, onSerial, listeners } = await startGuest(t, protocolVersion, async (asked) => resolve(asked));
  const opening = transport.open(AbortSignal.timeout(300));
  const asked = await promise;
  const late = asked.dial(own);
  await assert.rejects(opening, { name: "TimeoutError" });
  await eventually("nothing is left", () => onSerial.every(({ destroyed }) => destroyed) && listeners() === 0);
  await within("the connection ends", once(late.resume(), "close"));
});
