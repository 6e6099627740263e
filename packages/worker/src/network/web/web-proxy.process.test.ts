import assert from "node:assert/strict";
import { connect, createServer, type Socket } from "node:net";
import { afterEach, beforeEach, suite, test } from "node:test";
import * as fc from "fast-check";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { almostHeads } from "@opensandbox/wire/testing/http-heads.ts";
import { openTcpListener } from "#host/kernel/sockets.ts";
import type { Refusal } from "../network-record.ts";
import { compilePolicy } from "../policy.ts";
import { clientHello } from "../testing/client-hello.ts";
import { inOwnHost } from "../testing/own-host.ts";
import { serveWeb, type WebProxyOptions } from "./web-proxy.ts";

const here = "/proc/self/ns/net";
const address = "127.0.0.1";
const kept = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const get = kept.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
const defaultLimits = { maxConnections: 100, helloTimeoutMs: 10_000, requestTimeoutMs: 10_000 };

/** Waits for the close, even after an error, for which `once` would reject. */
async function closed(socket: Socket): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("close", () => resolve());
  const timer = setTimeout(() => reject(new Error("the connection is still open after 20 s")), 20_000);
  await promise.finally(() => clearTimeout(timer));
}

// Here the kernel redirects nothing, so a connection to the proxy's own address counts as one to that address.
inOwnHost(import.meta.filename, () => {
  suite("a guest's web proxy", () => {
    let stack: AsyncDisposableStack;
    const defects: unknown[] = [];
    const refusals: Refusal[] = [];
    /** The upstream server's response to each request. */
    let answer: string | Buffer;
    let upstreamPort: number;

    beforeEach(async () => {
      stack = new AsyncDisposableStack();
      defects.length = 0;
      refusals.length = 0;
      answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
      const server = createServer((socket) => {
        socket.on("error", () => socket.destroy());
        socket.once("data", () => socket.end(answer));
      });
      server.listen(0, address);
      await eventOf(server, "listening");
      upstreamPort = (server.address() as { readonly port: number }).port;
      stack.defer(() => void server.close());
    });
    afterEach(() => stack.disposeAsync());

    function serve(options: Partial<WebProxyOptions> & { readonly port: 80 | 443 }): void {
      stack.use(
        serveWeb({
          listener: openTcpListener(here, { address, port: options.port }),
          limits: defaultLimits,
          policy: () => compilePolicy({ enabled: true, egress: { allow: ["a.example"] } }),
          connect: () => Promise.resolve({ socket: connect(upstreamPort, address) }),
          refuse: (refusal) => void refusals.push(refusal),
          defect: (error) => void defects.push(error),
          ...options,
        }),
      );
    }

    function open(port: number): Socket {
      const socket = connect(port, address);
      socket.on("error", () => socket.destroy());
      stack.defer(() => void socket.destroy());
      return socket;
    }

    async function allOf(socket: Socket): Promise<string> {
      let text = "";
      socket.setEncoding("latin1");
      socket.on("data", (chunk: string) => (text += chunk));
      await closed(socket);
      return text;
    }

    async function exchange(request: string | Buffer): Promise<string> {
      const socket = open(80);
      socket.write(request);
      return await allOf(socket);
    }

    for (const [what, bytes] of [
      ["status 099", "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"],
      ["status 000", "HTTP/1.1 000 Nil\r\nContent-Length: 0\r\n\r\n"],
      ["a control character in the reason", "HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n"],
      ["a control character in a header", "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n"],
      ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"],
      ["another protocol", "SSH-2.0-OpenSSH\r\n"],
      ["nothing", ""],
    ] as const) {
      test(`answers 502 for a server that answers with ${what}`, async () => {
        serve({ port: 80 });
        answer = Buffer.from(bytes, "latin1");
        assert.match(await exchange(get), /^HTTP\/1\.1 502 /);
        assert.deepEqual(defects, []);
        answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert.match(await exchange(get), /^HTTP\/1\.1 200 OK[^]*hi$/);
      });
    }

    test("ends the connection at most, for requests and answers of any bytes and heads of any size", async () => {
      serve({ port: 80 });
      const requests = [
        "GET / HTTP/1.1\r\nHost: a.example",
        "POST / HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "PRI * HTTP/2.0",
      ];
      const answers = ["HTTP/1.1 200 OK", "HTTP/1.1 100 Go", "HTTP/1.1 204 No", "HTTP/1.0 200", "HTTP/1.1 999 X"];
      const ended = async (request: string): Promise<string> => {
        const socket = open(80);
        socket.write(Buffer.from(request, "latin1"));
        // The proxy may wait for the rest of a request.
        socket.setTimeout(200, () => socket.destroy());
        return await allOf(socket);
      };
      await fc.assert(
        fc.asyncProperty(almostHeads(requests), async (request) => void (await ended(request))),
        { numRuns: 60 },
      );
      await fc.assert(
        fc.asyncProperty(almostHeads(answers), async (bytes) => {
          answer = Buffer.from(bytes, "latin1");
          await ended(get);
        }),
        { numRuns: 60 },
      );
      // Node's limit for a head is 16 KiB.
      const long = `X: ${"y".repeat(16_384)}\r\n`;
      assert.equal(await ended(`GET / HTTP/1.1\r\nHost: a.example\r\n${long}\r\n`), "");
      answer = `HTTP/1.1 200 OK\r\n${long}\r\n`;
      assert.match(await ended(get), /^HTTP\/1\.1 502 /);
      answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
      assert.match(await ended(get), /^HTTP\/1\.1 200 /);
      assert.deepEqual(defects, []);
    });

    test("answers 502 when there is no descriptor left for a connection", async () => {
      const error = Object.assign(new Error("socket: EMFILE"), { code: "EMFILE" });
      serve({ port: 80, connect: () => Promise.reject(error) });
      assert.match(await exchange(get), /^HTTP\/1\.1 502 /);
    });

    test("cuts a TLS connection when there is no descriptor left, and says so", async () => {
      const error = Object.assign(new Error("socket: EMFILE"), { code: "EMFILE" });
      serve({ port: 443, connect: () => Promise.reject(error) });
      const socket = open(443);
      socket.write(await clientHello("a.example"));
      await allOf(socket);
      assert.deepEqual(defects, [error]);
    });

    test("closes a connection that never sends a whole head, and one that stalls after an answer", async () => {
      serve({ port: 80, limits: { ...defaultLimits, requestTimeoutMs: 300 } });
      const slow = open(80);
      slow.write("GET / HTTP/1.1\r\n");
      assert.equal(await allOf(slow), "");
      const stalled = open(80);
      stalled.write(`${kept}GET / HTTP/1.1\r\n`);
      assert.match(await allOf(stalled), /^HTTP\/1\.1 200 /);
    });

    test("closes a TLS connection whose hello takes too long, even if bytes keep arriving", async () => {
      serve({ port: 443, limits: { ...defaultLimits, helloTimeoutMs: 300 } });
      const hello = await clientHello("a.example");
      const socket = open(443);
      const dripping = setInterval(() => socket.write(hello.subarray(0, 1)), 20);
      stack.defer(() => clearInterval(dripping));
      socket.write(hello.subarray(0, 100));
      socket.write(Buffer.from([22, 3, 1, 0, 255]));
      await allOf(socket);
      assert.match(refusals[0]?.reason ?? "", /not complete/);
    });

    for (const port of [80, 443] as const) {
      test(`resets one connection too many to port ${port}, and has room again when another has ended`, async () => {
        serve({ port, limits: { ...defaultLimits, maxConnections: 2 } });
        const sockets = [open(port), open(port)];
        for (const socket of sockets) await eventOf(socket, "connect");
        const third = open(port);
        assert.equal(await allOf(third), "");
        assert.equal(refusals[0]?.reason, "too many connections at once");
        sockets[0]?.destroy();
        const say = port === 80 ? get : await clientHello("a.example");
        for (let text = ""; !text.startsWith("HTTP/1.1 200 ");) {
          const socket = open(port);
          socket.write(say);
          text = await allOf(socket);
        }
      });
    }

    test("records a connection that does not speak HTTP where HTTP is expected", async () => {
      serve({ port: 80 });
      await exchange("SSH-2.0-OpenSSH\r\n");
      await exchange("CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n");
      assert.deepEqual(
        refusals.map(({ protocol, reason }) => `${protocol}: ${reason}`),
        ["http: the connection is not HTTP/1", "http: CONNECT tunnels are not supported"],
      );
    });
  });
});
