import assert from "node:assert/strict";
import { request as startRequest, type IncomingMessage } from "node:http";
import { connect, createServer, type AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { suite, test, before, after } from "node:test";
import { assert as assertProperty, asyncProperty, boolean } from "fast-check";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { almostHeads } from "@opensandbox/wire/testing/http-heads.ts";
import { errorFromWire, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { WebSocket } from "ws";
import { startForTest, type TestControlPlane } from "#testing/start-for-test.ts";

// An unhandled rejection or exception in this process fails the test that caused it.
suite("a hostile guest or client ends its own connection only", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let id: SandboxId;
  before(async () => {
    world = stack.use(await startForTest());
    id = await world.create();
  });
  after(() => stack.disposeAsync());

  async function ask(port: number): Promise<[status: number | undefined, body: string]> {
    const request = startRequest(world.url, { headers: { host: `${id}-p${port}.sandbox.test` }, agent: false }).end();
    const [response] = (await eventOf(request, "response")) as [IncomingMessage];
    return [response.statusCode, await text(response)];
  }

  async function upgrade(port: number): Promise<number | undefined> {
    const socket = new WebSocket(world.url.replace("http", "ws"), { headers: { host: `${id}-p${port}.sandbox.test` } });
    const [, response] = (await eventOf(socket, "unexpected-response")) as [unknown, IncomingMessage];
    response.resume();
    return response.statusCode;
  }

  /** Sends the bytes on a connection of their own and returns the server's. */
  async function exchange(bytes: string | Buffer): Promise<string> {
    const { hostname, port } = new URL(world.url);
    const socket = connect(Number(port), hostname);
    socket.write(bytes);
    // The server may wait for the rest of a request.
    socket.setTimeout(200, () => socket.destroy());
    return await text(socket).catch(() => "");
  }

  async function healthy(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal((await fetch(`${world.url}/health`)).status, 200);
  }

  /** A guest's server that answers every connection with the same bytes. */
  async function answering(answer: string | Buffer): Promise<{ port: number } & Disposable> {
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.once("data", () => socket.end(answer));
    });
    server.listen(0, "127.0.0.1");
    await eventOf(server, "listening");
    return { port: (server.address() as AddressInfo).port, [Symbol.dispose]: () => server.close() };
  }

  test("a failure without the details that belong to its code is an internal error of that request", async (t) => {
    t.mock.method(world.worker.guest(id).ports, "open", () =>
      Promise.reject(errorFromWire({ code: "not_found", message: "no" })),
    );
    assert.equal((await ask(80))[0], 500);
    assert.equal(await upgrade(80), 500);
    await healthy();
  });

  for (const [what, head] of [
    ["a status that HTTP does not have", "HTTP/1.1 099 X\r\n\r\n"],
    ["a control character in its reason", "HTTP/1.1 200 \u0001\r\nContent-Length: 0\r\n\r\n"],
    ["a switch of protocols that nobody asked for", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"],
    ["bytes that are not HTTP", "\u0000\u0001\u0002\r\n\r\n"],
    ["an answer that breaks off", "HTTP/1.1 200 OK\r\nContent-Le"],
  ] as const) {
    test(`an answer with ${what} is a failure of that request`, async () => {
      using server = await answering(head);
      const [status = 0] = await ask(server.port);
      assert.ok(status >= 500 && status < 600, `${status}`);
      await healthy();
    });
  }

  test("an answer of any bytes, and with a head of any size, is a failure of its request at most", async () => {
    const starts = [
      "HTTP/1.1 200 OK",
      "HTTP/1.1 100 Go",
      "HTTP/1.1 204 No",
      "HTTP/1.1 304 No",
      "HTTP/1.0 200",
      "HTTP/1.1 999 X",
    ];
    await assertProperty(
      asyncProperty(almostHeads(starts), boolean(), async (bytes, asUpgrade) => {
        using server = await answering(Buffer.from(bytes, "latin1"));
        const upgrade = asUpgrade ? "Connection: Upgrade\r\nUpgrade: websocket\r\n" : "Connection: close\r\n";
        await exchange(`GET / HTTP/1.1\r\nHost: ${id}-p${server.port}.sandbox.test\r\n${upgrade}\r\n`);
      }),
      { numRuns: 60 },
    );
    using server = await answering(`HTTP/1.1 200 OK\r\nX: ${"y".repeat(16_384)}\r\n\r\n`);
    const [status = 0] = await ask(server.port);
    assert.ok(status >= 500, `${status}`);
    await healthy();
    assert.ok(!world.logged.some(({ message }) => message.startsWith("defect: ")));
  });

  test("a request of any bytes, and with a head of any size, is a failure of its connection at most", async () => {
    const host = `Host: ${id}-p1.sandbox.test`;
    const starts = [
      "GET / HTTP/1.1",
      `GET /health HTTP/1.1\r\n${host}`,
      "POST / HTTP/1.1",
      "CONNECT a:1 HTTP/1.1",
      "PRI * HTTP/2.0",
    ];
    await assertProperty(
      asyncProperty(almostHeads(starts), async (bytes) => void (await exchange(Buffer.from(bytes, "latin1")))),
      { numRuns: 60 },
    );
    assert.match(await exchange(`GET / HTTP/1.1\r\n${"X: y\r\n".repeat(4000)}\r\n`), /^HTTP\/1\.1 431 /);
    await healthy();
    assert.ok(!world.logged.some(({ message }) => message.startsWith("defect: ")));
  });

  test("an answer to an upgrade that breaks off is not followed by a second answer", async () => {
    using server = await answering("HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\npart");
    const { hostname, port } = new URL(world.url);
    const socket = connect(Number(port), hostname);
    const host = `Host: ${id}-p${server.port}.sandbox.test`;
    socket.write(`GET / HTTP/1.1\r\n${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
    const received = await text(socket).catch(() => "cut");
    assert.equal(received.match(/HTTP\/1\.1/g)?.length ?? 1, 1, received);
    await healthy();
  });

  test("an upgrade behind a request that is not answered yet closes its connection", async () => {
    const { hostname, port } = new URL(world.url);
    for (const host of ["api.test", `${id}-p1.sandbox.test`]) {
      const socket = connect(Number(port), hostname);
      socket.on("error", () => socket.destroy());
      const request = `GET /health HTTP/1.1\r\nHost: ${host}\r\n`;
      socket.write(`${request}\r\n${request}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
      socket.resume();
      await eventOf(socket, "close");
      await healthy();
    }
  });

  test("an exception in a handler is logged as a defect and closes the connection", async (t) => {
    t.mock.method(world.worker.guest(id).ports, "open", () => {
      // Reading its details throws, as a mistake of this server would.
      const failure = new SandboxError("invalid_argument", "no");
      return Promise.reject(Object.defineProperty(failure, "code", { value: "not_found" }));
    });
    await assert.rejects(ask(80), /socket hang up|ECONNRESET/);
    await healthy();
    const defect = world.logged.find(({ message }) => message.startsWith("defect: "));
    assert.match(JSON.stringify(defect?.fields), /TypeError.*preview-answers/);
  });
});
