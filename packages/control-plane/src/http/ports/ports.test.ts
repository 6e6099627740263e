import assert from "node:assert/strict";
import { createServer, type AddressInfo, type Server } from "node:net";
import { afterEach, beforeEach, suite, test } from "node:test";
import { WebSocket } from "ws";
import { eventOf, within } from "@opensandbox/wire/testing/eventually.ts";
import { startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

// The ports of a test guest are those of this host.
suite("a port of a sandbox over a WebSocket", () => {
  let stack: AsyncDisposableStack;
  let world: TestControlPlane;
  let id: string;
  let port: number;
  let server: Server;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    world = stack.use(await startForTest());
    id = await world.create();
    server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => socket.destroy());
      socket.pipe(socket);
    });
    server.listen(0, "127.0.0.1");
    await eventOf(server, "listening");
    ({ port } = server.address() as AddressInfo);
    stack.defer(() => void server.close());
  });
  afterEach(() => stack.disposeAsync());

  function connect(where: string | number = port): WebSocket {
    const url = `${world.url.replace(/^http/, "ws")}/api/sandboxes/${id}/ports/${where}/connect?api_key=${testKey}`;
    const socket = new WebSocket(url);
    // The tests read how the connection ended.
    socket.on("error", () => undefined);
    stack.defer(() => socket.terminate());
    return socket;
  }

  test("passes bytes both ways, wakes a sandbox, and ends when the server has ended after the client's end", async () => {
    await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
    const socket = connect();
    const parts: Buffer[] = [];
    socket.on("message", (data: Buffer) => parts.push(data));
    const closed = eventOf(socket, "close");
    await eventOf(socket, "open");
    const sent = Buffer.alloc(3 * 2 ** 20, "abc");
    for (let at = 0; at < sent.length; at += 2 ** 20) socket.send(sent.subarray(at, at + 2 ** 20));
    socket.send("end");
    const [code] = await within("the end", closed);
    assert.equal(code, 1000);
    assert.ok(Buffer.concat(parts).equals(sent));
    assert.equal((await world.get(id)).status, "running");
  });

  test("a port without a server ends with its error, and so does a message that is none of the protocol", async () => {
    const codeOf = async (socket: WebSocket): Promise<string> => {
      const [data] = await eventOf(socket, "message");
      assert.equal((await eventOf(socket, "close"))[0], 1011);
      return (JSON.parse(String(data)) as { code: string }).code;
    };
    assert.equal(await codeOf(connect(1)), "not_found");
    const socket = connect();
    await eventOf(socket, "open");
    socket.send("hello");
    assert.equal(await codeOf(socket), "invalid_argument");
  });

  test("a wrong port and an unknown sandbox are refused before the upgrade", async () => {
    const [, response] = (await eventOf(connect("70000"), "unexpected-response")) as [unknown, { statusCode: number }];
    assert.equal(response.statusCode, 400);
    id = "sb-0000000000000000";
    const [, missing] = (await eventOf(connect(), "unexpected-response")) as [unknown, { statusCode: number }];
    assert.equal(missing.statusCode, 404);
  });
});
