import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { request as startRequest, type IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { crc32 } from "node:zlib";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { eventOf, eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { answerOf } from "./answer-of.ts";
import { forgetPeak, memoryBytes, type SpawnedServer, spawnServer } from "./spawn-server.ts";

/** A tenth of the body: buffers in flight, and uncollected garbage. */
const maxGrowthBytes = 100 * 2 ** 20;

// The published client, a server, a worker and a real guest agent; only the machine is a process of this host.
suite("previews of a sandbox", () => {
  const stack = new AsyncDisposableStack();
  let world: SpawnedServer;
  let sandbox: Sandbox;
  let port: number;

  before(async () => {
    world = stack.use(await spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } }));
    sandbox = await Sandbox.create({ apiUrl: world.url, apiKey: world.apiKey, previewAuth: { token: "auto" } });
    port = await freePort();
    const program = [
      "const http = require('node:http');",
      "http.createServer((request, response) => {",
      "  response.setHeader('x-url', request.url);",
      "  if (request.headers.accept === 'text/event-stream') response.setHeader('content-type', 'text/event-stream');",
      "  request.pipe(response);",
      "}).on('upgrade', (request, socket, head) => {",
      "  socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n');",
      "  socket.write(head);",
      "  socket.pipe(socket);",
      `}).listen(${port}, '127.0.0.1');`,
    ].join("\n");
    await sandbox.files.write("server.cjs", program);
    await sandbox.exec.start("sh", { args: ["-c", `exec ${process.execPath} server.cjs`] });
  });
  after(() => stack.disposeAsync());

  async function ask(body: Buffer, headers: Record<string, string> = {}): Promise<IncomingMessage> {
    const host = sandbox.getPreviewDomain(port);
    const token = { "x-oc-preview-token": sandbox.previewAuthToken };
    const request = startRequest(`${world.url}/a?b`, {
      method: "POST",
      headers: { ...token, ...headers, host },
      agent: false,
    });
    request.end(body);
    const response = await answerOf(request);
    return response;
  }

  test("a request waits for a server that is starting, and its body comes back", async () => {
    const response = await eventually("the server in the sandbox listens", async () => {
      const answer = await ask(Buffer.from("hello"));
      if (answer.statusCode !== 502) return answer;
      assert.match(await text(answer), /nothing listens/);
      return undefined;
    });
    assert.equal(response.headers["x-url"], "/a?b");
    assert.equal(await text(response), "hello");
  });

  test("a gigabyte passes through the agent and back whole, and the server's memory does not grow with it", async () => {
    const pid = world.process.pid;
    const chunk = randomBytes(2 ** 20);
    const chunks = 1024;
    const echo = async (count: number): Promise<{ readonly bytes: number; readonly sum: number }> => {
      const request = startRequest(world.url, {
        method: "POST",
        headers: { "x-oc-preview-token": sandbox.previewAuthToken, host: sandbox.getPreviewDomain(port) },
        agent: false,
      });
      const sending = pipeline(Readable.from(Array.from({ length: count }, () => chunk)), request);
      const response = await answerOf(request);
      let bytes = 0;
      let sum = 0;
      for await (const part of response as AsyncIterable<Buffer>) {
        bytes += part.length;
        sum = crc32(part, sum);
      }
      await sending;
      return { bytes, sum };
    };
    // The first large body fills buffers once, which does not count as growth with the size.
    await echo(64);
    const before = await memoryBytes(pid, "now");
    await forgetPeak(pid);
    const echoed = await echo(chunks);
    const growth = (await memoryBytes(pid, "peak")) - before;
    let sum = 0;
    for (let count = 0; count < chunks; count += 1) sum = crc32(chunk, sum);
    assert.deepEqual(echoed, { bytes: 2 ** 30, sum });
    assert.ok(growth < maxGrowthBytes, `the server grew by ${growth / 2 ** 20} MiB`);
  });

  test("each event arrives before the next is sent, in both directions", async () => {
    const request = startRequest(world.url, {
      method: "POST",
      headers: {
        host: sandbox.getPreviewDomain(port),
        "x-oc-preview-token": sandbox.previewAuthToken,
        accept: "text/event-stream",
      },
      agent: false,
    });
    request.flushHeaders();
    request.write("data: 0\n\n");
    const response = await answerOf(request);
    response.setEncoding("utf8");
    for (let count = 0; count < 20; count += 1) {
      const [event] = await within(`event ${count} arrives`, once(response, "data") as Promise<[string]>);
      assert.equal(event, `data: ${count}\n\n`);
      request.write(`data: ${count + 1}\n\n`);
    }
    request.destroy();
    response.destroy();
  });

  test("an upgraded connection carries bytes in both directions", async () => {
    const request = startRequest(world.url, {
      headers: {
        host: sandbox.getPreviewDomain(port),
        "x-oc-preview-token": sandbox.previewAuthToken,
        connection: "upgrade",
        upgrade: "websocket",
      },
      agent: false,
    }).end();
    const upgrade = once(request, "upgrade") as Promise<[IncomingMessage, Socket]>;
    const [response, socket] = await within("the upgrade is answered", upgrade);
    assert.equal(response.statusCode, 101);
    for (const word of ["one", "two"]) {
      socket.write(word);
      const [echo] = await within(`"${word}" comes back`, once(socket, "data") as Promise<[Buffer]>);
      assert.equal(echo.toString(), word);
    }
    socket.destroy();
  });

  test("many simultaneous requests are answered", async () => {
    const answers = await Promise.all(
      Array.from({ length: 100 }, async (_, n) => text(await ask(Buffer.from(`request ${n}`)))),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 100 }, (_, n) => `request ${n}`),
    );
  });

  test("a preview requires the token that the client received, and the client can rotate it", async () => {
    const before = sandbox.previewAuthToken;
    assert.match(before, /^[0-9a-f]{64}$/);
    assert.equal((await ask(Buffer.alloc(0), { "x-oc-preview-token": "wrong" })).statusCode, 401);
    await sandbox.rotatePreviewAuthToken();
    assert.equal((await ask(Buffer.alloc(0), { "x-oc-preview-token": before })).statusCode, 401);
    assert.equal((await ask(Buffer.alloc(0))).statusCode, 200);
  });

  test("the client creates, lists and deletes preview URLs", async () => {
    const made = await sandbox.createPreviewURL({ port });
    assert.equal(made.hostname, sandbox.getPreviewDomain(port));
    assert.deepEqual(
      (await sandbox.listPreviewURLs()).map(({ port }) => port),
      [port],
    );
    await sandbox.deletePreviewURL(port);
    assert.deepEqual(await sandbox.listPreviewURLs(), []);
  });

  test("rules that would not hold are refused, and limits of the host are reported", async () => {
    const create = (body: object): Promise<Response> =>
      fetch(`${world.url}/api/sandboxes`, {
        method: "POST",
        headers: { "X-API-Key": world.apiKey },
        body: JSON.stringify(body),
      });
    const refused = await create({ egress: { allow: ["example.com"] } });
    assert.equal(refused.status, 501);
    assert.match(await refused.text(), /cannot enforce egress rules/);
    const created = (await (await create({})).json()) as { networkNotEnforced: string[] };
    assert.ok(created.networkNotEnforced.length > 0);
  });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await eventOf(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await eventOf(server, "close");
  return port;
}
