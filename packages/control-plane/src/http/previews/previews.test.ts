import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  createServer,
  request as startRequest,
  type IncomingMessage,
  type RequestListener,
  type Server,
} from "node:http";
import { request as startTlsRequest } from "node:https";
import { connect, type AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { after, afterEach, before, suite, test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { WebSocket, WebSocketServer } from "ws";
import { openDatabase } from "#database/database.ts";
import { startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

const withoutOpenssl = spawnSync("openssl", ["version"]).status === 0 ? false : "openssl is not installed";

// In this file, the ports of sandboxes are ports of this host. The worker's tests cover the path to a guest's port.
suite("previews", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let id: string;
  let servers: Server[] = [];

  before(async () => {
    world = stack.use(
      await startForTest({ apiHostnames: ["api.example.com"], tuning: { timing: { previewWaitMs: 50 } } }),
    );
    id = await world.create();
  });
  afterEach(() => {
    for (const server of servers) {
      server.closeAllConnections();
      server.close();
    }
    servers = [];
  });
  after(() => stack.disposeAsync());

  /** A server in the sandbox; returns its port. */
  async function serve(listener: RequestListener): Promise<number> {
    const server = createServer(listener);
    servers.push(server);
    server.listen(0, "127.0.0.1");
    await eventOf(server, "listening");
    return (server.address() as AddressInfo).port;
  }

  const hostOf = (port: number, sandbox = id): string => `${sandbox}-p${port}.sandbox.test`;

  interface Ask {
    readonly method?: string;
    readonly path?: string;
    readonly headers?: Readonly<Record<string, string | string[]>>;
    readonly body?: string | Buffer | AsyncIterable<Buffer>;
  }

  /** Sends a request to the server under the name of a host. */
  async function ask(
    host: string,
    { method = "GET", path = "/", headers = {}, body = "" }: Ask = {},
    url = world.url,
  ): Promise<IncomingMessage> {
    const request = startRequest(`${url}${path}`, { method, headers: { ...headers, host }, agent: false });
    // The server may end an upload after it has answered.
    request.on("error", () => request.destroy());
    if (typeof body === "string" || Buffer.isBuffer(body)) request.end(body);
    else {
      void (async () => {
        for await (const chunk of body) if (!request.write(chunk)) await eventOf(request, "drain");
        request.end();
      })().catch(() => request.destroy());
    }
    const [response] = (await eventOf(request, "response")) as [IncomingMessage];
    return response;
  }

  async function askText(host: string, options?: Ask): Promise<string> {
    const response = await ask(host, options);
    return `${response.statusCode} ${await text(response)}`;
  }

  test("any port is served under its name in any domain, without the API's routes", async () => {
    const port = await serve((request, response) =>
      response.end(`${request.method} ${request.url} ${request.headers.host}`),
    );
    for (const domain of ["sandbox.test", "localhost:8080", "example.com", "1-2-3-4.nip.io"]) {
      const host = `${id}-p${port}.${domain}`;
      assert.equal(await askText(host, { path: "/api/sandboxes?x=1" }), `200 GET /api/sandboxes?x=1 ${host}`);
    }
    assert.equal(
      await askText(hostOf(port).toUpperCase(), { path: "/health" }),
      `200 GET /health ${hostOf(port).toUpperCase()}`,
    );
    assert.match(await askText("sandbox.test", { path: "/health" }), /"ok"/);
    assert.match(await askText(`x-${id}-p${port}.sandbox.test`, { path: "/health" }), /"ok"/);
  });

  test("headers pass both ways unchanged, with the request's origin and without this server's own", async () => {
    let seen: readonly string[] = [];
    const port = await serve((request, response) => {
      seen = request.rawHeaders;
      response.writeHead(418, "Short and stout", [
        ...["X-Mixed-Case", "1", "Access-Control-Allow-Origin", "https://only.example", "X-Twice", "a", "X-Twice", "b"],
        ...["Connection", "X-Gone", "X-Gone", "1"],
      ]);
      response.end();
    });
    const response = await ask(hostOf(port), {
      headers: {
        "X-Mine": "1",
        "x-forwarded-for": "203.0.113.7",
        authorization: "Bearer of-the-app",
        "x-api-key": testKey,
      },
    });
    assert.equal(response.statusCode, 418);
    assert.equal(response.statusMessage, "Short and stout");
    assert.equal(response.headers["access-control-allow-origin"], "https://only.example");
    assert.equal(response.headers["access-control-expose-headers"], undefined);
    assert.ok(response.rawHeaders.join("|").includes("X-Mixed-Case|1"));
    assert.ok(response.rawHeaders.join("|").includes("X-Twice|a|X-Twice|b"));
    assert.equal(response.headers["x-gone"], undefined);
    const value = (name: string): string | undefined =>
      seen[seen.findIndex((header) => header.toLowerCase() === name) + 1];
    assert.equal(value("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert.equal(value("x-forwarded-proto"), "http");
    assert.equal(value("x-forwarded-host"), hostOf(port));
    assert.equal(value("authorization"), "Bearer of-the-app");
    assert.equal(value("host"), hostOf(port));
  });

  for (const [what, key] of [
    ["a generated key", `osb_${"0".repeat(64)}`],
    ["the fixed key", testKey],
  ] as const) {
    test(`${what} of this server never reaches a sandbox, wherever it is sent`, async () => {
      let seen = "nothing came";
      const port = await serve(({ url, rawHeaders }, response) => {
        seen = `${url} ${rawHeaders.join(" ")}`;
        response.end();
      });
      const upgraded = async (path: string, headers: Record<string, string>): Promise<void> => {
        const socket = new WebSocket(`${world.url.replace("http", "ws")}${path}`, {
          headers: { ...headers, host: hostOf(port) },
        });
        await eventOf(socket, "unexpected-response");
      };
      const requested = async (path: string, headers: Record<string, string>): Promise<void> => {
        (await ask(hostOf(port), { path, headers })).resume();
      };
      for (const send of [requested, upgraded]) {
        await send("/", { "x-api-key": key });
        assert.ok(!seen.includes(key), seen);
        await send("/", { authorization: `Bearer ${key}`, "x-other": key });
        assert.ok(!seen.includes(key), seen);
        await send("/", { cookie: `a=1; session=${key}; b=2`, referer: `https://x.test/?api_key=${key}` });
        assert.ok(!seen.includes(key), seen);
        assert.match(seen, /cookie a=1; b=2/i);
        await send(`/path?a=%20&api_key=${encodeURIComponent(key)}&b=+`, {});
        assert.ok(seen.startsWith("/path?a=%20&b=+ "), seen);
        await send(`/path?api_key=${key}`, { authorization: "Basic of-the-app", "x-api-key": "of-the-app" });
        assert.match(seen, /^\/path .*authorization Basic of-the-app.*x-api-key of-the-app/i);
      }
    });
  }

  test("a cookie cannot reach other sandboxes: wider domains are removed", async () => {
    const cookies = [
      "own=1; Path=/; HttpOnly",
      "wide=1; Domain=sandbox.test; Secure",
      "dotted=1; domain=.sandbox.test",
      "other=1; Domain=sb-00000000-p80.sandbox.test; Path=/",
      "name=Domain=x; SameSite=Lax",
    ];
    const port = await serve((_request, response) => {
      response.setHeader("set-cookie", [...cookies, `exact=1; Domain=${hostOf(port)}`]);
      response.setHeader("clear-site-data", '"cookies"');
      response.end();
    });
    const { headers } = await ask(hostOf(port));
    assert.deepEqual(headers["set-cookie"], [
      "own=1; Path=/; HttpOnly",
      "wide=1; Secure",
      "dotted=1",
      "other=1; Path=/",
      "name=Domain=x; SameSite=Lax",
      `exact=1; Domain=${hostOf(port)}`,
    ]);
    assert.equal(headers["clear-site-data"], undefined);
  });

  test("events arrive when they are sent, and headers before the first event", async () => {
    let send = (_event: string): void => {};
    const port = await serve((_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.flushHeaders();
      send = (event) => response.write(`data: ${event}\n\n`);
    });
    const response = await ask(hostOf(port));
    response.setEncoding("utf8");
    for (const event of ["one", "two"]) {
      send(event);
      const [data] = (await eventOf(response, "data")) as [string];
      assert.equal(data, `data: ${event}\n\n`);
    }
    response.destroy();
  });

  test("a body of any size is streamed with back-pressure: a server that does not read slows its sender", async () => {
    const chunk = Buffer.alloc(256 * 1024, "x");
    const chunks = 600;
    let sent = 0;
    const read = Promise.withResolvers<void>();
    const port = await serve((request, response) => {
      void read.promise.then(() => request.pipe(response));
    });
    const answer = ask(hostOf(port), {
      method: "POST",
      body: (async function* () {
        for (; sent < chunks * chunk.length; sent += chunk.length) yield chunk;
      })(),
    });
    // While nobody reads, other requests are served repeatedly.
    const other = await serve((_request, other) => other.end("served"));
    for (let count = 0; count < 50; count += 1) assert.equal(await askText(hostOf(other)), "200 served");
    assert.ok(sent < 64 * 2 ** 20, `${sent} bytes were taken for nobody`);
    read.resolve();
    let bytes = 0;
    for await (const part of (await answer) as AsyncIterable<Buffer>) bytes += part.length;
    assert.equal(bytes, chunks * chunk.length);
  });

  test("a client that does not read slows the server in the sandbox", async () => {
    let sent = 0;
    const port = await serve((_request, response) => {
      const chunk = Buffer.alloc(64 * 1024);
      const fill = (): void => {
        while (sent < 256 * 2 ** 20) {
          sent += chunk.length;
          if (!response.write(chunk)) return;
        }
        response.end();
      };
      response.on("drain", fill);
      fill();
    });
    const response = await ask(hostOf(port));
    // While nobody reads, other requests are served repeatedly.
    const other = await serve((_request, other) => other.end("served"));
    for (let count = 0; count < 50; count += 1) assert.equal(await askText(hostOf(other)), "200 served");
    assert.ok(sent < 64 * 2 ** 20, `${sent} bytes were taken for nobody`);
    response.destroy();
  });

  test("the server in the sandbox notices a client that disconnects", async () => {
    const gone = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const port = await serve((_request, response) => {
      response.write("begun");
      response.once("close", () => gone.resolve());
      begun.resolve();
    });
    const response = await ask(hostOf(port));
    await begun.promise;
    response.destroy();
    await gone.promise;
  });

  test("an answer that breaks off never looks complete", async () => {
    const port = await serve((_request, response) => {
      response.write("half");
      setImmediate(() => response.destroy());
    });
    await assert.rejects(text(await ask(hostOf(port))));
  });

  test("a server may answer before it has read the request", async () => {
    const port = await serve((_request, response) => response.writeHead(413).end("too large"));
    const answered = Promise.withResolvers<void>();
    const body = (async function* () {
      yield Buffer.from("the beginning");
      await answered.promise;
    })();
    assert.equal(await askText(hostOf(port), { method: "POST", body }), "413 too large");
    answered.resolve();
  });

  test("a client that expects 100-continue gets it", async () => {
    const port = await serve((request, response) => request.pipe(response));
    const { hostname, port: own } = new URL(world.url);
    const socket = connect(Number(own), hostname);
    socket.write(
      `POST / HTTP/1.1\r\nHost: ${hostOf(port)}\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n`,
    );
    const [first] = (await eventOf(socket, "data")) as [Buffer];
    assert.match(first.toString(), /^HTTP\/1\.1 100 /);
    socket.write("hello");
    assert.match(await text(socket), /^HTTP\/1\.1 200 [\s\S]*hello/);
  });

  test("500 concurrent requests are all answered", async () => {
    const port = await serve((request, response) => setImmediate(() => response.end(request.url)));
    const answers = await Promise.all(Array.from({ length: 500 }, (_, n) => askText(hostOf(port), { path: `/${n}` })));
    assert.deepEqual(
      answers,
      Array.from({ length: 500 }, (_, n) => `200 /${n}`),
    );
  });

  test("a WebSocket passes through, with its cookies narrowed", async () => {
    const port = await serve(() => assert.fail("an upgrade is not a request"));
    const sockets = new WebSocketServer({ server: servers[0]! });
    sockets.on("headers", (headers) => headers.push("Set-Cookie: wide=1; Domain=sandbox.test"));
    sockets.on("connection", (socket, { url }) => {
      socket.send(`welcome to ${url}`);
      socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
    });
    const socket = new WebSocket(`${world.url.replace("http", "ws")}/chat?a=b`, { headers: { host: hostOf(port) } });
    const upgraded = once(socket, "upgrade") as Promise<[IncomingMessage]>;
    const welcome = once(socket, "message") as Promise<[Buffer]>;
    assert.deepEqual((await upgraded)[0].headers["set-cookie"], ["wide=1"]);
    assert.equal((await welcome)[0].toString(), "welcome to /chat?a=b");
    for (const message of ["text", Buffer.alloc(1_000_000, 7)]) {
      socket.send(message);
      const [echo] = (await eventOf(socket, "message")) as [Buffer];
      assert.deepEqual(echo, Buffer.from(message));
    }
    socket.close(4001, "enough");
    const [code] = (await eventOf(socket, "close")) as [number];
    assert.equal(code, 4001);
  });

  test("a refused upgrade returns the server's answer", async () => {
    const port = await serve((_request, response) => {
      response.writeHead(403, { "x-why": "because" });
      response.end("no sockets here");
    });
    const socket = new WebSocket(world.url.replace("http", "ws"), { headers: { host: hostOf(port) } });
    const [, response] = (await eventOf(socket, "unexpected-response")) as [unknown, IncomingMessage];
    assert.equal(response.statusCode, 403);
    assert.equal(response.headers["x-why"], "because");
    assert.equal(await text(response), "no sockets here");
  });

  test("when nothing listens, a browser gets a page that reloads, and other clients get JSON", async () => {
    const page = await ask(hostOf(1), { headers: { accept: "text/html,*/*" } });
    assert.equal(page.statusCode, 503);
    assert.match(page.headers["content-type"] ?? "", /text\/html/);
    assert.match(await text(page), /http-equiv="refresh"[\s\S]*port 1 /);
    assert.equal(world.worker.opened.filter((port) => port === 1).length, 7);

    const reply = await ask(hostOf(1));
    assert.equal(reply.statusCode, 502);
    assert.deepEqual(JSON.parse(await text(reply)), {
      error: "nothing listens on port 1 of this sandbox",
      code: "unavailable",
      retryable: true,
    });
    const socket = new WebSocket(world.url.replace("http", "ws"), { headers: { host: hostOf(1) } });
    const [, response] = (await eventOf(socket, "unexpected-response")) as [unknown, IncomingMessage];
    assert.equal(response.statusCode, 502);
  });

  test("a server that is still starting is waited for", async () => {
    const port = await serve(() => {});
    const listener = servers.pop();
    listener?.close();
    const answer = askText(hostOf(port));
    await eventOf(createdOn(port), "listening");
    assert.equal(await answer, "200 late");
  });

  function createdOn(port: number): Server {
    const server = createServer((_request, response) => response.end("late"));
    servers.push(server);
    return server.listen(port, "127.0.0.1");
  }

  test("a server that does not begin its answer times out", async () => {
    await using impatient = await startForTest({ tuning: { timing: { previewAnswerMs: 100 } } });
    const port = await serve(() => {});
    const host = hostOf(port, await impatient.create());
    const reply = await ask(host, {}, impatient.url);
    assert.equal(reply.statusCode, 504);
    assert.match(await text(reply), /did not begin its answer/);
  });

  test("unknown and stopped sandboxes are reported", async () => {
    assert.match(await askText("sb-00000000-p80.sandbox.test"), /^404 .*sandbox not found/);
    assert.match(
      await askText("sb-00000000-p80.sandbox.test", { headers: { accept: "text/html" } }),
      /^404 [\s\S]*<h1>/,
    );
    const ended = await world.create();
    await world.call("DELETE", `/api/sandboxes/${ended}`);
    assert.match(await askText(hostOf(80, ended)), /^410 /);
    assert.match(await askText(`${id}-p0.sandbox.test`, { path: "/health" }), /"ok"/);
    assert.match(await askText(`${id}-p65536.sandbox.test`, { path: "/health" }), /"ok"/);
  });

  suite("of a hibernated sandbox", () => {
    let sleeping: string;
    let port: number;
    before(async () => {
      sleeping = await world.create();
    });

    async function sleep(): Promise<void> {
      const response = await world.call("POST", `/api/sandboxes/${sleeping}/hibernate`);
      assert.equal(response.status, 200, await response.text());
      port = await serve((_request, response) => response.end("awake"));
    }

    test("wake it, and clients other than browsers wait for the wake", async () => {
      await sleep();
      assert.equal(await askText(hostOf(port, sleeping)), "200 awake");
    });

    test("show a browser a waiting page until it is awake", async () => {
      await sleep();
      const held = Promise.withResolvers<void>();
      world.worker.onStart = () => held.promise;
      const html = { headers: { accept: "text/html" } };
      for (let count = 0; count < 2; count += 1) {
        const page = await ask(hostOf(port, sleeping), html);
        assert.equal(page.statusCode, 503);
        assert.match(await text(page), /http-equiv="refresh"[\s\S]*hibernated/);
      }
      const waiting = askText(hostOf(port, sleeping));
      held.resolve();
      world.worker.onStart = () => {};
      assert.equal(await waiting, "200 awake");
      assert.equal(await askText(hostOf(port, sleeping), html), "200 awake");
    });

    test("say why it cannot be woken", async () => {
      await sleep();
      world.worker.onStart = () => {
        throw new Error("no more memory");
      };
      assert.match(await askText(hostOf(port, sleeping)), /^500 /);
      world.worker.onStart = () => {};
    });
  });

  suite("with a token", () => {
    let guarded: string;
    let token: string;
    let port: number;

    before(async () => {
      const response = await world.call("POST", "/api/sandboxes", { previewAuth: { scheme: "bearer", token: "auto" } });
      const reply = (await response.json()) as { sandboxID: string; previewAuthToken: string };
      guarded = reply.sandboxID;
      token = reply.previewAuthToken;
    });

    async function status(headers: Record<string, string>): Promise<number | undefined> {
      port = await serve((request, response) => response.end(JSON.stringify(request.headers)));
      const response = await ask(hostOf(port, guarded), { headers });
      if (response.statusCode === 401) assert.match(response.headers["www-authenticate"] ?? "", /^Bearer/);
      response.resume();
      return response.statusCode;
    }

    test("refuse requests without it", async () => {
      assert.match(token, /^[0-9a-f]{64}$/);
      assert.equal(await status({}), 401);
      assert.equal(await status({ authorization: "Bearer wrong" }), 401);
      assert.equal(await status({ "x-oc-preview-token": `${token}0` }), 401);
      assert.equal(await status({ authorization: `Basic ${token}` }), 401);
      assert.equal(await status({ authorization: `Bearer ${token}` }), 200);
      assert.equal(await status({ "x-oc-preview-token": token }), 200);
      const socket = new WebSocket(world.url.replace("http", "ws"), { headers: { host: hostOf(port, guarded) } });
      const [, response] = (await eventOf(socket, "unexpected-response")) as [unknown, IncomingMessage];
      assert.equal(response.statusCode, 401);
      // A browser without the token gets no waiting page, because that would wake the sandbox.
      assert.equal(await status({ accept: "text/html" }), 401);
    });

    test("do not pass it to the sandbox", async () => {
      port = await serve((request, response) => response.end(JSON.stringify(request.headers)));
      const answer = await askText(hostOf(port, guarded), {
        headers: { "x-oc-preview-token": token, authorization: "Bearer of-the-app" },
      });
      assert.ok(!answer.includes(token));
      assert.match(answer, /of-the-app/);
      assert.ok(
        !(await askText(hostOf(port, guarded), { headers: { authorization: `Bearer ${token}` } })).includes(token),
      );
    });

    test("stop accepting it after a rotation", async () => {
      const response = await world.call("POST", `/api/sandboxes/${guarded}/preview/rotate`);
      const reply = (await response.json()) as { previewAuthToken: string; scheme: string };
      assert.equal(reply.scheme, "bearer");
      assert.equal(await status({ authorization: `Bearer ${token}` }), 401);
      assert.equal(await status({ authorization: `Bearer ${reply.previewAuthToken}` }), 200);
      const read = await world.call("GET", `/api/sandboxes/${guarded}`);
      assert.ok(!(await read.text()).includes(reply.previewAuthToken));
    });

    test("are not inherited by a fork, which may have its own", async () => {
      const [, checkpoint] = await world.ask("POST", `/api/sandboxes/${guarded}/checkpoints`, { name: "guarded" });
      const [status, { sandboxID: fork }] = await world.ask(
        "POST",
        `/api/sandboxes/from-checkpoint/${checkpoint.id}`,
        {},
      );
      assert.equal(status, 201);
      port = await serve((_request, response) => response.end("fork"));
      assert.equal(await askText(hostOf(port, fork)), "200 fork");
      const [, { previewAuthToken }] = await world.ask("POST", `/api/sandboxes/${fork}/preview/rotate`);
      const withToken = (value: string): Ask => ({ headers: { authorization: `Bearer ${value}` } });
      assert.match(await askText(hostOf(port, fork)), /^401 /);
      assert.match(await askText(hostOf(port, fork), withToken(token)), /^401 /);
      assert.equal(await askText(hostOf(port, fork), withToken(previewAuthToken)), "200 fork");
    });

    test("guard a fork from its first request on, and the token is returned once", async () => {
      const [, checkpoint] = await world.ask("POST", `/api/sandboxes/${guarded}/checkpoints`, {
        name: "to be guarded",
      });
      const path = `/api/sandboxes/from-checkpoint/${checkpoint.id}`;
      assert.equal((await world.ask("POST", path, { previewAuth: { scheme: "basic" } }))[0], 400);
      assert.equal((await world.ask("POST", path, { previewAuth: { token: "short" } }))[0], 400);
      port = await serve((_request, response) => response.end("fork"));
      const init = { headers: { "idempotency-key": "guarded-fork" } };
      const body = { previewAuth: { scheme: "bearer", token: "auto" }, port };
      const [status, { sandboxID: fork, previewAuthToken, hostPort }] = await world.ask("POST", path, body, init);
      assert.equal(status, 201);
      assert.notEqual(previewAuthToken, token);
      const withToken = (value: string): Ask => ({ headers: { authorization: `Bearer ${value}` } });
      assert.match(await askText(hostOf(port, fork)), /^401 /);
      assert.match(await askText(hostOf(port, fork), withToken(token)), /^401 /);
      assert.equal(await askText(hostOf(port, fork), withToken(previewAuthToken)), "200 fork");
      assert.equal(await (await fetch(`http://127.0.0.1:${hostPort}`)).text(), "fork");
      const [again, repeated] = await world.ask("POST", path, body, init);
      assert.deepEqual([again, repeated.sandboxID, repeated.previewAuthToken], [200, fork, undefined]);
    });

    test("accept a token chosen by the caller, if it is long enough", async () => {
      const create = (token: string): Promise<Response> =>
        world.call("POST", "/api/sandboxes", { previewAuth: { token } });
      assert.equal((await create("short")).status, 400);
      const reply = (await (await create("a-token-of-my-own")).json()) as { previewAuthToken: string };
      assert.equal(reply.previewAuthToken, "a-token-of-my-own");
    });
  });

  suite("with names", () => {
    const path = (rest = ""): string => `/api/sandboxes/${id}/preview${rest}`;

    test("are listed once each until they are deleted", async () => {
      const created = await world.call("POST", path(), { port: 3000, authConfig: {} });
      assert.equal(created.status, 201);
      const preview = (await created.json()) as Record<string, unknown>;
      assert.equal(preview["hostname"], hostOf(3000));
      assert.equal(preview["sandboxId"], id);
      assert.equal(preview["sslStatus"], "active");
      const again = await world.call("POST", path(), { port: 3000 });
      assert.equal(again.status, 200);
      assert.deepEqual(await again.json(), preview);
      assert.deepEqual(await (await world.call("GET", path())).json(), [preview]);
      assert.equal((await world.call("DELETE", path("/3000"))).status, 204);
      assert.equal((await world.call("DELETE", path("/3000"))).status, 404);
      assert.deepEqual(await (await world.call("GET", path())).json(), []);
    });

    for (const [body, error] of [
      [{}, "port must be between 1 and 65535"],
      [{ port: 0 }, "port must be between 1 and 65535"],
      [{ port: 65_536 }, "port must be between 1 and 65535"],
      [{ port: 80, domain: "localhost" }, /not a public host name/],
      [{ port: 80, domain: "10.0.0.1" }, /not a public host name/],
      [{ port: 80, domain: "API.example.com." }, /api\.example\.com is the API's own name/],
      [{ port: 80, domain: "x.sandbox.test" }, /given by the server/],
      [{ port: 80, authConfig: { password: "x" } }, /previewAuth/],
    ] as const) {
      test(`are refused with a reason: ${JSON.stringify(body)}`, async () => {
        const response = await world.call("POST", path(), body);
        assert.equal(response.status, 400);
        const answer = (await response.json()) as { error: string };
        if (typeof error === "string") assert.equal(answer.error, error);
        else assert.match(answer.error, error);
      });
    }

    test("require a sandbox that has not ended", async () => {
      const response = await world.call("POST", "/api/sandboxes/sb-00000000/preview", { port: 80 });
      assert.equal(response.status, 400);
      assert.match(await response.text(), /sandbox is not running or not found/);
    });

    test("have a custom domain, which belongs to one sandbox at a time", async () => {
      const port = await serve((request, response) => response.end(`app at ${request.headers.host}`));
      assert.match(await askText("app.example.com", { path: "/health" }), /"ok"/);
      const other = await world.create();
      const claim = (sandbox: string): Promise<Response> =>
        world.call("POST", `/api/sandboxes/${sandbox}/preview`, { port, domain: "App.Example.COM" });
      assert.equal(((await (await claim(id)).json()) as { customHostname: string }).customHostname, "app.example.com");
      assert.equal(await askText("APP.example.com:8443"), "200 app at APP.example.com:8443");
      assert.equal((await claim(other)).status, 409);
      assert.equal((await world.call("DELETE", path(`/${port}`))).status, 204);
      assert.match(await askText("app.example.com", { path: "/health" }), /"ok"/);
      assert.equal((await claim(other)).status, 201);
      await world.call("DELETE", `/api/sandboxes/${other}`);
      assert.equal((await claim(id)).status, 201);
    });
  });

  test("trying names finds no sandbox: over the limit an existing name is refused like an unknown one", async () => {
    await using another = await startForTest();
    const known = await another.create();
    const idle = await another.create();
    const port = await serve((_request, response) => response.end("here"));
    const statusOf = async (sandbox: string): Promise<number | undefined> => {
      const response = await ask(hostOf(port, sandbox), {}, another.url);
      response.resume();
      return response.statusCode;
    };
    assert.equal(await statusOf(known), 200);
    for (let n = 0; n < 60; n++) assert.equal(await statusOf(newSandboxId()), 404);
    assert.deepEqual([await statusOf(newSandboxId()), await statusOf(idle)], [429, 429]);
    assert.equal(await statusOf(known), 200);
  });

  test("a name of the API is refused as a custom domain and never leads to a sandbox", async () => {
    const port = await serve((_request, response) => response.end("the sandbox"));
    const create = startRequest(`${world.url}/api/sandboxes/${id}/preview`, {
      method: "POST",
      headers: { host: "unknown-api.example.org", "x-api-key": testKey },
    }).end(JSON.stringify({ port, domain: "unknown-api.example.org" }));
    const [refused] = (await eventOf(create, "response")) as [IncomingMessage];
    assert.equal(refused.statusCode, 400);
    assert.match(await text(refused), /the API's own name/);

    // A row that was added before the name was configured.
    const database = await openDatabase(world.database);
    await database
      .insertInto("previews")
      .values({ id: "p", sandbox_id: id, port, custom_hostname: "api.example.com", created_at: 0 })
      .execute();
    await database.destroy();
    assert.match(await askText("api.example.com", { path: "/health" }), /"ok"/);
  });

  test("a forwarded port of this host reaches the sandbox until it is deleted", async () => {
    const port = await serve((_request, response) => response.end("by its port"));
    const created = await world.call("POST", "/api/sandboxes", { port });
    const { sandboxID, hostPort } = (await created.json()) as { sandboxID: string; hostPort: number };
    assert.equal(await (await fetch(`http://127.0.0.1:${hostPort}`)).text(), "by its port");
    const read = (await (await world.call("GET", `/api/sandboxes/${sandboxID}`)).json()) as { hostPort: number };
    assert.equal(read.hostPort, hostPort);
    await world.call("DELETE", `/api/sandboxes/${sandboxID}`);
    await assert.rejects(fetch(`http://127.0.0.1:${hostPort}`));
  });

  test("with a certificate everything is HTTPS, and the sandbox sees that", { skip: withoutOpenssl }, async () => {
    await using secure = await startForTest({ tls: selfSigned() });
    assert.match(secure.url, /^https:/);
    const post = { method: "POST", headers: { "x-api-key": testKey }, rejectUnauthorized: false };
    const create = startTlsRequest(`${secure.url}/api/sandboxes`, post).end("{}");
    const [created] = (await eventOf(create, "response")) as [IncomingMessage];
    const { sandboxID: sandbox } = JSON.parse(await text(created)) as { sandboxID: string };
    const port = await serve((request, response) => response.end(request.headers["x-forwarded-proto"]));
    const sockets = new WebSocketServer({ server: servers.at(-1)! });
    sockets.on("connection", (socket) => socket.send("secret"));
    const options = { headers: { host: hostOf(port, sandbox) }, rejectUnauthorized: false };
    const request = startTlsRequest(secure.url, { ...options, agent: false }).end();
    const [response] = (await eventOf(request, "response")) as [IncomingMessage];
    assert.equal(await text(response), "https");
    const socket = new WebSocket(secure.url.replace("https", "wss"), options);
    const [message] = (await eventOf(socket, "message")) as [Buffer];
    assert.equal(message.toString(), "secret");
    socket.terminate();
  });
});

function selfSigned(): { readonly cert: string; readonly key: string } {
  const args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"];
  const { stdout } = spawnSync("openssl", [...args, "-keyout", "-", "-out", "-", "-days", "1"], { encoding: "utf8" });
  const part = (kind: string): string =>
    new RegExp(`-----BEGIN ${kind}-----[\\s\\S]*?-----END ${kind}-----`).exec(stdout)?.[0] ?? "";
  return { cert: part("CERTIFICATE"), key: part("PRIVATE KEY") };
}
