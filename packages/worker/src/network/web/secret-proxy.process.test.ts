import assert from "node:assert/strict";
import { createServer as createHttpsServer, request as startRequest, type RequestOptions } from "node:https";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { afterEach, before, beforeEach, suite, test } from "node:test";
import type { GuestAuthority, SealedSecret } from "@opensandbox/wire/worker/worker.ts";
import { parseHeaderRules } from "@opensandbox/wire/header-rules.ts";
import { matchesHost } from "@opensandbox/wire/secret-hosts.ts";
import { eventOf, eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { openTcpListener } from "#host/kernel/sockets.ts";
import type { Refusal } from "../network-record.ts";
import { compilePolicy } from "../policy.ts";
import { LeafCertificates } from "../secrets/leaf-certificates.ts";
import { NetworkSecrets } from "../secrets/network-secrets.ts";
import { inOwnHost } from "../testing/own-host.ts";
import { makeTestAuthority } from "../testing/test-authority.ts";
import { serveWeb, type WebProxy } from "./web-proxy.ts";

const here = "/proc/self/ns/net";
const address = "127.0.0.1";

const token: SealedSecret = {
  name: "TOKEN",
  sealed: `osb_sealed_${"a1".repeat(16)}`,
  value: 'v&lue "1"',
  hosts: ["api.example.com"],
};
const other: SealedSecret = {
  name: "OTHER",
  sealed: `osb_sealed_${"b2".repeat(16)}`,
  value: "value-of-other",
  hosts: ["other.example.com"],
};

const rules = parseHeaderRules({
  "*.example.com": { "X-Team": "all", "X-Key": token.sealed, "X-Other": other.sealed },
  "rules.example.com": { "x-team": "own", Authorization: "Bearer of-the-rule" },
});

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

interface GuestRequest extends Pick<RequestOptions, "method" | "path" | "ca" | "servername"> {
  readonly headers?: Readonly<Record<string, string>>;
  readonly parts?: readonly (string | Buffer)[];
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

// Here the kernel redirects nothing, so a connection to the proxy's own address counts as one to that address.
inOwnHost(import.meta.filename, () => {
  suite("the proxy that puts secrets into requests", () => {
    let guestAuthority: GuestAuthority;
    let publicAuthority: GuestAuthority;
    let stack: AsyncDisposableStack;
    let proxy: WebProxy;
    let version: number;
    let hasRules: boolean;
    let server: Server;
    const defects: unknown[] = [];
    const refusals: Refusal[] = [];
    const seen: Seen[] = [];
    /** What the server answers. */
    let handle: (request: IncomingMessage, response: ServerResponse) => void;

    before(async () => {
      guestAuthority = await makeTestAuthority("the sandbox's own");
      publicAuthority = await makeTestAuthority("a well-known one");
    });

    beforeEach(async () => {
      stack = new AsyncDisposableStack();
      for (const list of [defects, refusals, seen]) list.length = 0;
      version = 1;
      hasRules = false;
      handle = (_request, response) => response.end("ok");
      await startServer("api.example.com", "other.example.com", "rules.example.com");
    });
    afterEach(async () => {
      await stack.disposeAsync();
      assert.deepEqual(defects, []);
    });

    /** A server with a certificate for these names, and the proxy in front of it. */
    async function startServer(...names: string[]): Promise<void> {
      const certificates = new Map<string, Awaited<ReturnType<LeafCertificates["of"]>>>();
      const leaves = new LeafCertificates(publicAuthority);
      for (const name of names) certificates.set(name, await leaves.of(name));
      const { certificate, privateKey } = certificates.get(names[0]!)!;
      const https = createHttpsServer({ cert: certificate, key: privateKey }, (request, response) => {
        let body = "";
        request.setEncoding("utf8").on("data", (text: string) => (body += text));
        request.on("end", () => {
          seen.push({ method: request.method ?? "", url: request.url ?? "", headers: request.headers, body });
          handle(request, response);
        });
      });
      for (const [name, leaf] of certificates) https.addContext(name, { cert: leaf.certificate, key: leaf.privateKey });
      https.listen(0, address);
      await eventOf(https, "listening");
      stack.defer(() => {
        https.closeAllConnections();
        https.close();
      });
      server = https;
      const { port } = https.address() as { readonly port: number };
      const secrets = new NetworkSecrets(
        { authority: guestAuthority, secrets: [token, other] },
        publicAuthority.certificate,
      );
      proxy = stack.use(
        serveWeb({
          listener: openTcpListener(here, { address, port: 443 }),
          policy: () => compilePolicy({ enabled: true }),
          connect: () => Promise.resolve({ socket: connect(port, address) }),
          refuse: (refusal) => void refusals.push(refusal),
          secrets: {
            areFor: (name) => matchesHost([...secrets.hosts, ...(hasRules ? rules.map(({ host }) => host) : [])], name),
            get version() {
              return version;
            },
            intercept: (name) => secrets.intercept(name, hasRules ? rules : []),
          },
          defect: (error) => void defects.push(error),
        }),
      );
    }

    /** A request of a guest that trusts the sandbox's authority, and the well-known one. */
    async function ask(options: GuestRequest): Promise<Answer> {
      const { parts = [], ...rest } = options;
      const { promise, resolve, reject } = Promise.withResolvers<Answer>();
      const request = startRequest({
        ...{ host: address, port: 443, servername: "api.example.com", agent: false, path: "/" },
        ca: [guestAuthority.certificate, publicAuthority.certificate],
        ...rest,
        headers: { host: "api.example.com", ...rest.headers },
      });
      request.on("error", reject);
      request.on("response", (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (text: string) => (body += text));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
        response.on("error", reject);
      });
      for (const part of parts) {
        request.write(part);
        // Each part is a packet of its own.
        await new Promise((done) => setTimeout(done, 20));
      }
      request.end();
      return await within("the answer", promise);
    }

    const reasons = (): readonly string[] => refusals.map(({ reason }) => reason);

    test("puts the value into headers, bearer and basic credentials, cookies and the query", async () => {
      const basic = Buffer.from(`user:${token.sealed}`).toString("base64");
      await ask({
        path: `/v1/${token.sealed}?key=${token.sealed}&a=b`,
        headers: {
          authorization: `Bearer ${token.sealed}`,
          "x-api-key": token.sealed,
          cookie: `t=${token.sealed}; u=1`,
        },
      });
      await ask({ headers: { authorization: `Basic ${basic}` } });
      const [first, second] = seen;
      assert.equal(first?.url, "/v1/v%26lue%20%221%22?key=v%26lue%20%221%22&a=b");
      assert.equal(first?.headers.authorization, `Bearer ${token.value}`);
      assert.equal(first?.headers["x-api-key"], token.value);
      assert.equal(first?.headers.cookie, `t=${token.value}; u=1`);
      assert.equal(second?.headers.authorization, `Basic ${Buffer.from(`user:${token.value}`).toString("base64")}`);
      assert.deepEqual(reasons(), []);
    });

    test("puts the value into JSON and form bodies, also when a chunk ends within the sealed text", async () => {
      const json = JSON.stringify({ key: token.sealed, text: "é" });
      const half = json.indexOf(token.sealed) + 10;
      const headers = { "content-type": "application/json; charset=utf-8" };
      await ask({ method: "POST", headers, parts: [json.slice(0, half), json.slice(half)] });
      assert.deepEqual(JSON.parse(seen[0]?.body ?? ""), { key: token.value, text: "é" });
      assert.equal(seen[0]?.headers["transfer-encoding"], undefined);
      const form = { "content-type": "application/x-www-form-urlencoded", "content-length": String(4 + 43) };
      await ask({ method: "POST", headers: form, parts: [`key=${token.sealed}`] });
      assert.equal(new URLSearchParams(seen[1]?.body).get("key"), token.value);
    });

    test("a body that is too long, or of another type, passes as it is and as it arrives", async () => {
      const long = `{"key":"${token.sealed}","pad":"${"x".repeat(2 * 2 ** 20)}"}`;
      const headers = { "content-type": "application/json" };
      await ask({ method: "PUT", headers, parts: [long] });
      assert.equal(seen[0]?.body, long);
      await ask({ method: "PUT", headers: { ...headers, "content-length": String(long.length) }, parts: [long] });
      assert.equal(seen[1]?.body, long);
      await ask({ method: "POST", headers: { "content-type": "text/plain" }, parts: [token.sealed] });
      assert.equal(seen[2]?.body, token.sealed);
    });

    test("a secret that is not for the host stays sealed, and the log says so", async () => {
      const headers = { authorization: `Bearer ${other.sealed}`, "x-unknown": `osb_sealed_${"c".repeat(32)}` };
      await ask({ headers });
      assert.equal(seen[0]?.headers.authorization, `Bearer ${other.sealed}`);
      assert.deepEqual(reasons(), [
        "the secret OTHER is not for this host, and its sealed text was sent as it is",
        "a sealed text that is no secret of the sandbox was sent as it is",
      ]);
      assert.ok(!JSON.stringify(refusals).includes(other.value));
    });

    test("a host of no secret is not intercepted: the guest sees its certificate, and it gets the sealed text", async () => {
      stack.defer(() => void server.close());
      const socket = await guestSocket("unrelated.example.org");
      // The server's default certificate is for another name, so it is not the proxy that answers.
      assert.match(String(socket.getPeerX509Certificate()?.issuer), /a well-known one/);
      socket.write(
        `GET / HTTP/1.1\r\nHost: unrelated.example.org\r\nX-Key: ${token.sealed}\r\nConnection: close\r\n\r\n`,
      );
      await within("the end", eventOf(socket, "close"));
      assert.equal(seen[0]?.headers["x-key"], token.sealed);
    });

    async function guestSocket(servername: string, ALPNProtocols: string[] = ["http/1.1"]): Promise<TLSSocket> {
      const ca = [guestAuthority.certificate, publicAuthority.certificate];
      const socket = connectTls({
        host: address,
        port: 443,
        servername,
        ca,
        ALPNProtocols,
        checkServerIdentity: () => undefined,
      });
      stack.defer(() => void socket.destroy());
      socket.on("error", () => socket.destroy());
      await within("the handshake", eventOf(socket, "secureConnect"));
      socket.resume();
      return socket;
    }

    test("a request for another host within the connection gets no value", async () => {
      for (const host of ["evil.example.com", "other.example.com"])
        await ask({ headers: { host, "x-key": token.sealed } });
      const socket = await guestSocket("api.example.com");
      socket.write(
        `GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example\r\nX-Key: ${token.sealed}\r\nConnection: close\r\n\r\n`,
      );
      await within("the end", eventOf(socket, "close"));
      const absolute = await guestSocket("api.example.com");
      absolute.write(
        `GET https://evil.example/ HTTP/1.1\r\nHost: api.example.com\r\nX-Key: ${token.sealed}\r\nConnection: close\r\n\r\n`,
      );
      await within("the end", eventOf(absolute, "close"));
      for (const { headers } of seen) assert.equal(headers["x-key"], token.sealed);
      assert.ok(
        reasons().every((reason) => reason.includes("is not that of the connection")),
        reasons().join("\n"),
      );
      assert.ok(reasons().length >= 2);
    });

    test("a server without a valid certificate for the name gets no request, whatever its address", async () => {
      await stack.disposeAsync();
      stack = new AsyncDisposableStack();
      await startServer("evil.example.com");
      const { status, body } = await ask({ headers: { "x-key": token.sealed } });
      assert.equal(status, 502);
      assert.match(body, /certificate is not valid for api\.example\.com: no secret was sent/);
      assert.deepEqual(seen, []);
      assert.match(reasons().join(), /certificate is not valid/);
    });

    test("an answer that repeats the value in a header is sealed again, so no redirect carries it away", async () => {
      handle = (request, response) => {
        const location = `https://evil.example/?key=${encodeURIComponent(token.value)}`;
        response.writeHead(302, { location, "x-echo": request.headers["x-key"] ?? "" }).end();
      };
      const { status, headers } = await ask({ headers: { "x-key": token.sealed } });
      assert.equal(seen[0]?.headers["x-key"], token.value);
      assert.equal(status, 302);
      assert.equal(headers.location, `https://evil.example/?key=${token.sealed}`);
      assert.equal(headers["x-echo"], token.sealed);
    });

    test("several requests of one connection, and answers as they are written", async () => {
      handle = (_request, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write("data: 1\n\n");
        server.once("more", () => response.end("data: 2\n\n"));
      };
      const socket = await guestSocket("api.example.com");
      let text = "";
      socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk));
      for (const round of [1, 2]) {
        socket.write(`GET /${round} HTTP/1.1\r\nHost: api.example.com\r\nX-Key: ${token.sealed}\r\n\r\n`);
        await eventually("the first event", () => text.split("data: 1").length === round + 1);
        assert.equal(text.split("data: 2").length, round, "the second event has not been sent yet");
        server.emit("more");
        await eventually("the second event", () => text.split("data: 2").length === round + 1);
      }
      assert.deepEqual(
        seen.map(({ url, headers }) => [url, headers["x-key"]]),
        [
          ["/1", token.value],
          ["/2", token.value],
        ],
      );
    });

    test("an upgrade carries the value, and its bytes pass both ways", async () => {
      server.on("upgrade", (request: IncomingMessage, socket: Socket) => {
        seen.push({ method: "upgrade", url: request.url ?? "", headers: request.headers, body: "" });
        socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        socket.pipe(socket);
      });
      const socket = await guestSocket("api.example.com");
      let text = "";
      socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk));
      const head = `GET /?key=${token.sealed} HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`;
      socket.write(`${head}Sec-WebSocket-Protocol: ${token.sealed}\r\n\r\n`);
      await eventually("the greeting", () => text.endsWith("hello"));
      assert.match(text, /^HTTP\/1\.1 101 /);
      socket.write("echo");
      await eventually("the echo", () => text.endsWith("helloecho"));
      assert.equal(seen[0]?.url, "/?key=v%26lue%20%221%22");
      assert.equal(seen[0]?.headers["sec-websocket-protocol"], token.value);
    });

    test("HTTP/1.1 is what the guest gets; a client that speaks only HTTP/2 is refused", async () => {
      assert.equal((await guestSocket("api.example.com", ["h2", "http/1.1"])).alpnProtocol, "http/1.1");
      await assert.rejects(guestSocket("api.example.com", ["h2"]));
    });

    test("requests get the headers of the host's rules in place of their own, however the guest writes them", async () => {
      hasRules = true;
      const json = { "content-type": "application/json", "x-team": "mine", authorization: "Bearer mine" };
      const to = { servername: "rules.example.com", method: "POST", parts: ['{"a":', "1}"] };
      assert.equal((await ask({ ...to, headers: { ...json, host: "rules.example.com" } })).status, 200);
      const socket = await guestSocket("rules.example.com");
      socket.write(
        "GET / HTTP/1.1\r\nHost: rules.example.com\r\nX-TEAM: 1\r\nX-Team: 2\r\nAUTHORIZATION: Bearer mine\r\n" +
          "X-Mine: kept\r\nConnection: close, X-Team, Authorization\r\n\r\n",
      );
      await within("the end", eventOf(socket, "close"));
      assert.equal(seen.length, 2);
      for (const { headers } of seen) {
        assert.deepEqual([headers["x-team"], headers.authorization], ["own", "Bearer of-the-rule"]);
      }
      assert.deepEqual([seen[0]?.body, seen[0]?.headers["content-length"]], ['{"a":1}', "7"]);
      assert.equal(seen[1]?.headers["x-mine"], "kept");
    });

    test("a sealed text in a rule becomes the value for the secret's hosts alone", async () => {
      hasRules = true;
      await ask({});
      await ask({ servername: "rules.example.com", headers: { host: "rules.example.com" } });
      assert.deepEqual(
        seen.map(({ headers }) => [headers["x-key"], headers["x-other"]]),
        [
          [token.value, other.sealed],
          [token.sealed, other.sealed],
        ],
      );
    });

    test("a request for another host within the connection gets no header of a rule", async () => {
      hasRules = true;
      for (const request of [
        "GET / HTTP/1.1\r\nHost: evil.example\r\n",
        "GET / HTTP/1.1\r\nHost: other.example.com\r\n",
        "GET / HTTP/1.1\r\nHost: rules.example.com\r\nHost: evil.example\r\n",
        "GET https://evil.example/ HTTP/1.1\r\nHost: rules.example.com\r\n",
      ]) {
        const socket = await guestSocket("rules.example.com");
        socket.write(`${request}Connection: close\r\n\r\n`);
        await within("the end", eventOf(socket, "close"));
      }
      for (const { headers } of seen) {
        assert.deepEqual(
          [headers["x-team"], headers.authorization, headers["x-key"]],
          [undefined, undefined, undefined],
        );
      }
    });

    test("an upgrade carries the headers of rules", async () => {
      hasRules = true;
      server.on("upgrade", (request: IncomingMessage, socket: Socket) => {
        seen.push({ method: "upgrade", url: request.url ?? "", headers: request.headers, body: "" });
        socket.end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
      });
      const socket = await guestSocket("rules.example.com");
      const head = "GET / HTTP/1.1\r\nHost: rules.example.com\r\nConnection: Upgrade, X-Team\r\nUpgrade: websocket\r\n";
      socket.write(`${head}X-Team: mine\r\n\r\n`);
      await within("the end", eventOf(socket, "close"));
      assert.deepEqual([seen[0]?.headers["x-team"], seen[0]?.headers.upgrade], ["own", "websocket"]);
    });

    test("oversized headers, tunnels and other protocols end the connection, and nothing else", async () => {
      for (const bytes of [
        `GET / HTTP/1.1\r\nHost: api.example.com\r\nX: ${"y".repeat(20_000)}\r\n\r\n`,
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "SSH-2.0-x\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      ]) {
        const socket = await guestSocket("api.example.com");
        const ended = eventOf(socket, "close");
        socket.write(bytes);
        await within(`the end after ${bytes.slice(0, 10)}`, ended);
      }
      assert.deepEqual(seen, []);
      assert.equal((await ask({})).body, "ok");
    });

    test("connections are cut when the secrets change, and new ones use the new secrets", async () => {
      const socket = await guestSocket("api.example.com");
      const ended = eventOf(socket, "close");
      proxy.judgeAgain();
      version += 1;
      proxy.judgeAgain();
      await within("the end", ended);
      assert.equal((await ask({ headers: { "x-key": token.sealed } })).status, 200);
    });

    test("a guest that does not trust the sandbox's authority is not served", async () => {
      await assert.rejects(ask({ ca: [publicAuthority.certificate] }), /unable to|self-signed|certificate/);
      assert.deepEqual(seen, []);
    });
  });
});
