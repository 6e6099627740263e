import assert from "node:assert/strict";
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import { eventOf, within } from "@opensandbox/wire/testing/eventually.ts";
import { WebSocket } from "ws";
import { notYet } from "@opensandbox/wire/public/not-yet.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import { pathOf } from "@opensandbox/wire/route.ts";
import { startForTest, testKey } from "#testing/start-for-test.ts";

const anyParameters = new Proxy({}, { get: () => "x" });

test("every route that requires a key refuses a missing, a wrong and an empty one", async () => {
  await using world = await startForTest();
  const routes = [
    ...publicRoutes.filter(({ access }) => access === "key"),
    ...notYet.map(([method, path]) => ({ method, path })),
  ];
  for (const { method, path } of routes) {
    const url = world.url + pathOf({ path }, anyParameters);
    const refusal = async (headers: Record<string, string>) => {
      const response = await fetch(url, { method, headers });
      const text = await response.text();
      return method === "HEAD" ? [response.status] : [response.status, JSON.parse(text)];
    };
    const none = [401, { error: "missing API key", code: "unauthenticated" }];
    const wrong = [403, { error: "invalid API key", code: "permission_denied" }];
    assert.deepEqual(await refusal({}), method === "HEAD" ? none.slice(0, 1) : none);
    assert.deepEqual(await refusal({ "x-api-key": "wrong" }), method === "HEAD" ? wrong.slice(0, 1) : wrong);
  }
});

test("the key may come in a header, as a bearer, or in the query", async () => {
  await using world = await startForTest();
  const url = `${world.url}/api/sandboxes`;
  const replies = [
    await fetch(url, { headers: { "X-API-Key": testKey } }),
    await fetch(url, { headers: { Authorization: `Bearer ${testKey}` } }),
    await fetch(`${url}?api_key=${testKey}`),
  ];
  assert.deepEqual(
    replies.map(({ status }) => status),
    [200, 200, 200],
  );
});

test("a route that is not implemented answers 501 and says so", async () => {
  await using world = await startForTest();
  for (const [method, path, what] of notYet) {
    const response = await world.call(method, pathOf({ path }, anyParameters));
    assert.equal(response.status, 501, path);
    assert.deepEqual(await response.json(), { error: `${what} is not implemented`, code: "not_supported" });
  }
});

test("an unknown route answers 404 in JSON, and a path that cannot be decoded 400", async () => {
  await using world = await startForTest();
  const unknown = await world.call("GET", "/api/nothing?x=1");
  assert.equal(unknown.status, 404);
  assert.deepEqual(await unknown.json(), {
    error: "there is no route GET /api/nothing: see /openapi.json",
    code: "not_found",
  });
  const broken = await world.call("GET", "/api/sandboxes/%zz");
  assert.equal(broken.status, 400);
  assert.equal(((await broken.json()) as { code: string }).code, "invalid_argument");
});

test("health, readiness and the document need no key", async () => {
  let ready: { ready: boolean; reason?: string } = { ready: false, reason: "the image is being built" };
  await using world = await startForTest({ ready: () => ready });
  const get = async (path: string) => {
    const response = await fetch(world.url + path);
    return [response.status, await response.json()];
  };
  assert.deepEqual(await get("/health"), [200, { status: "ok" }]);
  assert.deepEqual(await get("/healthz"), [200, { status: "alive" }]);
  assert.deepEqual(await get("/readyz"), [503, { status: "not ready", reason: "the image is being built" }]);
  ready = { ready: true };
  assert.deepEqual(await get("/readyz"), [200, { status: "ready" }]);
  const [status, document] = await get("/openapi.json");
  assert.equal(status, 200);
  assert.equal((document as { openapi: string }).openapi, "3.1.0");
});

test("every origin may call, and preflight requests need no key", async () => {
  await using world = await startForTest();
  const preflight = await fetch(`${world.url}/api/sandboxes`, {
    method: "OPTIONS",
    headers: {
      origin: "https://somewhere.test",
      "access-control-request-method": "POST",
      "access-control-request-headers": "x-api-key, content-type",
    },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get("access-control-allow-origin"), "*");
  assert.equal(preflight.headers.get("access-control-allow-headers"), "x-api-key, content-type");
  assert.match(preflight.headers.get("access-control-allow-methods") ?? "", /DELETE/);
  const refused = await fetch(`${world.url}/api/sandboxes`);
  assert.equal(refused.headers.get("access-control-allow-origin"), "*");
});

test("an upgrade to another protocol is served as an ordinary request", async () => {
  await using world = await startForTest();
  const request = httpRequest(`${world.url}/api/sandboxes`, {
    method: "POST",
    headers: { "x-api-key": testKey, connection: "Upgrade, HTTP2-Settings", upgrade: "h2c", "http2-settings": "AAA" },
  });
  request.end("{}");
  const [response] = (await eventOf(request, "response")) as [import("node:http").IncomingMessage];
  response.resume();
  assert.equal(response.statusCode, 201);
});

test("a WebSocket to another route is refused like any request", async () => {
  await using world = await startForTest();
  const address = world.url.replace("http", "ws");
  const refusal = async (path: string) => {
    const socket = new WebSocket(address + path);
    const [, response] = (await eventOf(socket, "unexpected-response")) as [
      unknown,
      import("node:http").IncomingMessage,
    ];
    response.resume();
    socket.on("error", () => {});
    socket.terminate();
    return response.statusCode;
  };
  assert.equal(await refusal("/api/sandboxes/sb-00000000/exec/stream"), 401);
  assert.equal(await refusal(`/api/sandboxes/sb-00000000/exec/stream?api_key=${testKey}`), 404);
  assert.equal(await refusal(`/api/sandboxes/sb-00000000/mounts?api_key=${testKey}`), 501);
  assert.equal(await refusal("/elsewhere"), 404);
  const plain = await world.call("GET", `/api/sandboxes/${await world.create()}/exec/stream`);
  assert.equal(plain.status, 400);
});

const gigabyte = 2 ** 30;

for (const [what, path, key, status] of [
  ["a JSON route", "/api/sandboxes", testKey, 400],
  ["a route that takes nothing", "/api/sandboxes/sb-00000000/hibernate", testKey, 404],
  ["any route with a wrong key", "/api/sandboxes", "wrong", 403],
] as const) {
  for (const announced of [true, false]) {
    test(`1 GB to ${what} (${announced ? "announced" : "chunked"}) is refused without being read`, async () => {
      await using world = await startForTest();
      const { port, hostname } = new URL(world.url);
      const socket = connect(Number(port), hostname);
      await eventOf(socket, "connect");
      const length = announced ? `Content-Length: ${gigabyte}` : "Transfer-Encoding: chunked";
      socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\n${length}\r\n\r\n`);

      const chunk = Buffer.alloc(2 ** 16, 0x20);
      const piece = announced ? chunk : Buffer.concat([Buffer.from("10000\r\n"), chunk, Buffer.from("\r\n")]);
      const before = process.memoryUsage().rss;
      let answer = "";
      let sent = 0;
      socket.on("data", (data: Buffer) => (answer += data.toString()));
      // Bytes that the server has not read when it closes turn the close into a reset.
      socket.on("error", () => {});
      const closed = within(
        "the server closes the connection",
        new Promise((resolve) => socket.once("close", resolve)),
      );
      while (!socket.destroyed && sent < gigabyte) {
        sent += chunk.length;
        if (!socket.write(piece)) await Promise.race([once(socket, "drain").catch(() => {}), closed]);
      }
      await closed;
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `));
      assert.ok(sent < 64 * 2 ** 20, `${sent} bytes were taken`);
      assert.ok(process.memoryUsage().rss - before < 128 * 2 ** 20);
    });
  }
}

test("a client that expects 100-continue for 1 GB is refused before it sends", async () => {
  await using world = await startForTest();
  const request = httpRequest(`${world.url}/api/sandboxes`, {
    method: "POST",
    headers: { "x-api-key": testKey, "content-length": gigabyte, expect: "100-continue" },
  });
  request.on("continue", () => assert.fail("the server asks for the body"));
  request.on("error", () => {});
  request.flushHeaders();
  const [response] = (await eventOf(request, "response")) as [import("node:http").IncomingMessage];
  assert.equal(response.statusCode, 400);
  request.destroy();
});

test("a body of just over 1 MiB is refused with advice; a smaller one is read", async () => {
  await using world = await startForTest();
  const id = await world.create();
  const body = (bytes: number) => JSON.stringify({ cmd: "true", filler: "y".repeat(bytes) });
  const timeout = (bytes: number) => JSON.stringify({ timeout: 60, filler: "y".repeat(bytes) });
  const refused = await world.call("POST", `/api/sandboxes/${id}/exec/run`, body(2 ** 20));
  assert.equal(refused.status, 400);
  const { error } = (await refused.json()) as { error: string };
  assert.equal(error, "the request body is larger than 1 MiB: upload files to .../files instead");
  assert.equal((await world.call("POST", `/api/sandboxes/${id}/timeout`, timeout(2 ** 20 - 100))).status, 204);
});
