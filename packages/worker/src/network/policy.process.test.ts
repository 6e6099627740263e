import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer } from "node:http";
import { after, before, beforeEach, suite, test } from "node:test";
import { createSocket } from "node:dgram";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { openTcpListener, openUdpSocket } from "#host/kernel/sockets.ts";
import { formatIpv4 } from "@opensandbox/wire/ipv4.ts";
import { inner } from "./address-plan.ts";
import { parseQuestion, parseRecords, recordTypes } from "./names/dns-message.ts";
import { MessageReader, withLength } from "./names/dns-stream.ts";
import { askOver, hostResolvers } from "./names/host-resolvers.ts";
import type { SandboxNetwork } from "./sandbox-network.ts";
import { clientHello } from "./testing/client-hello.ts";
import { type FakeResolver, query, startFakeResolver, type Zone } from "./testing/fake-resolver.ts";
import { worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { type OwnWorld, startOwnWorld } from "./testing/own-world.ts";
import type { Outcome, PluggedGuest } from "./testing/plugged-guest.ts";

const { site, otherSite } = worldAddresses;
const refused: Outcome = { refused: "ECONNREFUSED" };
const reset: Outcome = { refused: "ECONNRESET" };

inOwnHost(import.meta.filename, () => {
  suite("a sandbox's network policy", () => {
    const stack = new AsyncDisposableStack();
    const zone: Zone = {};
    let world: OwnWorld;
    let resolver: FakeResolver;
    let network: SandboxNetwork;
    let guest: PluggedGuest;

    before(async () => {
      world = stack.use(await startOwnWorld({ ports: [22, 443, 5000] }));
      // Answers with its address and the request that it has received.
      const web = createServer((request, response) => {
        request.setEncoding("utf8");
        let body = "";
        request.on("data", (text: string) => (body += text));
        request.on("end", () => response.end(`${request.socket.localAddress} ${request.headers.host} ${body}`));
      });
      web.listen({ fd: openTcpListener(world.internet.namespace, { address: "0.0.0.0", port: 80 }) });
      stack.defer(() => void web.close());
      resolver = stack.use(startFakeResolver(zone));
      ({ network, guest } = await world.plug());
    });
    after(() => stack.disposeAsync());
    beforeEach(async () => {
      Object.assign(zone, {
        "allowed.example": [site],
        "other.example": [otherSite],
        "a.below.example": [site],
        "below.example": [otherSite],
        "alias.example": ["cdn.example"],
        "cdn.example": [site],
        "shared.example": [site],
        "trap.example": ["10.99.0.1"],
        "half-trap.example": [site, "169.254.169.254"],
        "trap6.example": ["fd00::1"],
        "six.example": ["2001:db8::1"],
        "many.example": Array.from({ length: 60 }, (_, index) => `203.0.113.${index + 100}`),
      });
      resolver.asked.length = 0;
      await network.setPolicy({ enabled: false });
    });

    /** The addresses that the guest's name server answers, or the response code. */
    async function resolve(name: string, type: number = recordTypes.a): Promise<readonly string[] | string> {
      const answer = await ask(name, type);
      const code = answer.readUInt16BE(2) & 15;
      if (code !== 0) return `code ${code}`;
      return (parseRecords(answer) ?? [])
        .filter((record) => record.type === type)
        .map(({ data }) => (data.length === 4 ? formatIpv4(data.readUInt32BE()) : data.toString("hex")));
    }

    async function ask(name: string, type: number = recordTypes.a): Promise<Buffer> {
      const socket = createSocket("udp4");
      socket.bind({ fd: openUdpSocket(guest.namespace, { address: "0.0.0.0", port: 0 }) });
      socket.connect(53, inner.nameServer, () => socket.send(query(name, type)));
      const [answer] = (await once(socket, "message", { signal: AbortSignal.timeout(10_000) })) as [Buffer];
      socket.close();
      assert.equal(answer.readUInt16BE(0), 0x1234);
      return answer;
    }

    async function https(address: string, name?: string): Promise<Outcome> {
      return await guest.tcp(address, 443, await clientHello(name));
    }

    /** Status and body of each answer on one connection, closed after the last; empty when the connection is refused. */
    async function http(address: string, ...requests: string[]): Promise<readonly string[]> {
      const socket = guest.connect(address, 80);
      socket.setEncoding("latin1");
      let text = "";
      socket.on("data", (chunk: string) => (text += chunk));
      socket.on("error", () => socket.destroy());
      const last = requests.at(-1)?.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") ?? "";
      socket.write([...requests.slice(0, -1), last].join(""));
      const closed = Promise.withResolvers<void>();
      socket.once("close", () => closed.resolve());
      await closed.promise;
      return text
        .split(/(?=HTTP\/1\.1 )/)
        .filter((answer) => answer !== "")
        .map((answer) => {
          const status = answer.slice("HTTP/1.1 ".length, "HTTP/1.1 200".length);
          const body = answer.split("\r\n\r\n").slice(1).join("");
          return `${status} ${body.replaceAll(/^[\da-f]+\r\n|\r\n0|\r\n/g, "").trim()}`;
        });
    }

    function get(host: string, path = "/"): string {
      return `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
    }

    test("open: names are resolved by the host's resolver, also one on its loopback", async () => {
      await network.setPolicy({ enabled: true });
      assert.deepEqual(await resolve("other.example"), [otherSite]);
      assert.deepEqual(await resolve("alias.example"), [site]);
      assert.deepEqual(await resolve("six.example", recordTypes.aaaa), ["20010db8000000000000000000000001"]);
      assert.deepEqual(await resolve("nowhere.example"), "code 3");
      assert.equal(resolver.asked[0], "udp other.example 1");
    });

    test("open: an answer that is too large for a datagram is sent over TCP", async () => {
      await network.setPolicy({ enabled: true });
      assert.equal((await ask("many.example")).readUInt16BE(2) & 0x0200, 0x0200);
      const socket = guest.connect(inner.nameServer, 53);
      socket.write(withLength(query("many.example")));
      const reader = new MessageReader();
      const answers: Buffer[] = [];
      while (answers.length === 0) {
        const [chunk] = (await once(socket, "data", { signal: AbortSignal.timeout(10_000) })) as [Buffer];
        answers.push(...reader.push(chunk));
      }
      socket.destroy();
      assert.equal(parseRecords(answers[0]!)?.length, 60);
      assert.ok(resolver.asked.includes("tcp many.example 1"));
    });

    for (const [name, type] of [
      ["trap.example", recordTypes.a],
      ["half-trap.example", recordTypes.a],
      ["trap6.example", recordTypes.aaaa],
    ] as const) {
      test(`open: ${name}, which has a private address, does not exist`, async () => {
        await network.setPolicy({ enabled: true });
        assert.deepEqual(await resolve(name, type), "code 3");
        assert.match(network.refusals().find(({ host }) => host === name)?.reason ?? "", /private address/);
      });
    }

    test("off: no name is resolved, no address is reached, and open connections are cut", async () => {
      await network.setPolicy({ enabled: true });
      const standing = guest.connect(site, 5000);
      const ended = Promise.withResolvers<NodeJS.ErrnoException>();
      standing.once("error", ended.resolve);
      await eventOf(standing, "data");
      await network.setPolicy({ enabled: false });
      assert.deepEqual(await resolve("allowed.example"), "code 3");
      assert.deepEqual(resolver.asked, []);
      assert.deepEqual(await guest.tcp(site, 5000), refused);
      standing.write("more");
      assert.equal((await ended.promise).code, "ECONNRESET");
    });

    suite("that allows a name", () => {
      beforeEach(() => network.setPolicy({ enabled: true, egress: { allow: ["allowed.example"] } }));

      test("admits its resolved addresses, on any port, by TLS and by HTTP", async () => {
        assert.deepEqual(await guest.tcp(site, 22), refused);
        assert.deepEqual(await resolve("allowed.example"), [site]);
        assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
        assert.deepEqual(await guest.udp(site, 5000), { reached: "hello" });
        assert.deepEqual(await https(site, "allowed.example"), { reached: `${site}:443` });
        assert.deepEqual(await http(site, get("allowed.example")), [`200 ${site} allowed.example`]);
      });

      test("hides all other names", async () => {
        assert.deepEqual(await resolve("other.example"), "code 3");
        assert.deepEqual(await resolve("www.allowed.example"), "code 3");
        assert.deepEqual(resolver.asked, []);
        const recorded = network.refusals().find(({ host }) => host === "other.example");
        assert.equal(recorded?.protocol, "dns");
      });

      test("refuses all other addresses, whatever name a connection says", async () => {
        await resolve("allowed.example");
        for (const port of [22, 443, 5000]) assert.deepEqual(await guest.tcp(otherSite, port), refused);
        assert.deepEqual(await https(otherSite, "allowed.example"), refused);
        assert.deepEqual(await http(otherSite, get("allowed.example")), []);
      });

      test("refuses other names at its address: by TLS", async () => {
        await resolve("allowed.example");
        assert.deepEqual(await https(site, "shared.example"), reset);
        assert.deepEqual(await https(site), reset);
        assert.deepEqual(await guest.tcp(site, 443, "SSH-2.0-tunnel\r\n"), reset);
        const recorded = network.refusals().filter(({ protocol }) => protocol === "tls");
        assert.deepEqual(new Set(recorded.map(({ host }) => host)), new Set(["shared.example", undefined]));
        assert.ok(recorded.every(({ address, port }) => address === site && port === 443));
      });

      test("refuses other names at its address: by HTTP, also in a later request of a connection", async () => {
        await resolve("allowed.example");
        const refusal = "opensandbox: the network policy does not allow this name";
        assert.deepEqual(await http(site, get("shared.example")), [`403 ${refusal}`]);
        assert.deepEqual(await http(site, get("allowed.example"), get("shared.example")), [
          `200 ${site} allowed.example`,
          `403 ${refusal}`,
        ]);
        for (const tricky of [
          get("allowed.example", "http://shared.example/"),
          "GET / HTTP/1.1\r\nHost: allowed.example\r\nHost: shared.example\r\n\r\n",
          "GET / HTTP/1.0\r\n\r\n",
        ]) {
          const [answer] = await http(site, tricky);
          assert.match(answer ?? "", /^40[03] /, tricky);
        }
        assert.deepEqual(await http(site, "CONNECT shared.example:443 HTTP/1.1\r\nHost: allowed.example\r\n\r\n"), []);
      });

      test("passes bodies on, with a length and in chunks", async () => {
        await resolve("allowed.example");
        const whole = "POST / HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 5\r\n\r\nhello";
        const chunks =
          "GET / HTTP/1.1\r\nHost: allowed.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        assert.deepEqual(await http(site, whole, chunks), Array(2).fill(`200 ${site} allowed.example hello`));
      });

      test("refuses HTTP/3, and gives no HTTPS records", async () => {
        await resolve("allowed.example");
        const datagram = await guest.udp(site, 443);
        assert.ok("refused" in datagram && datagram.refused !== "silence");
        assert.deepEqual(await resolve("allowed.example", recordTypes.https), []);
      });

      test("does not let the guest connect to the proxy itself", async () => {
        await resolve("allowed.example");
        assert.deepEqual(await guest.tcp(inner.gateway, 3129), refused);
        assert.deepEqual(await guest.tcp(inner.nameServer, 443, await clientHello("allowed.example")), refused);
      });

      test("that is replaced by a narrower policy: open connections are cut", async () => {
        await resolve("allowed.example");
        const direct = guest.connect(site, 22);
        const proxied = guest.connect(site, 443);
        proxied.write(await clientHello("allowed.example"));
        await Promise.all([once(direct, "data"), once(proxied, "data")]);
        await network.setPolicy({ enabled: true, egress: { allow: ["allowed.example", "other.example"] } });
        direct.write("still there");
        await eventOf(direct, "data");
        const ends = [direct, proxied].map((socket) => once(socket, "error"));
        await network.setPolicy({ enabled: true, egress: { allow: ["other.example"] } });
        direct.write("more");
        for (const [error] of (await Promise.all(ends)) as [NodeJS.ErrnoException][])
          assert.equal(error.code, "ECONNRESET");
        assert.deepEqual(await guest.tcp(site, 22), refused);
        assert.deepEqual(await https(site, "allowed.example"), refused);
      });
    });

    test("that allows the names below a domain does not allow the domain", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: ["*.below.example"] } });
      assert.deepEqual(await resolve("a.below.example"), [site]);
      assert.deepEqual(await resolve("A.BELOW.example"), [site]);
      assert.deepEqual(await resolve("below.example"), "code 3");
      assert.deepEqual(await resolve("a.below.example.evil.example"), "code 3");
      assert.deepEqual(await https(site, "a.below.example"), { reached: `${site}:443` });
    });

    test("that allows a name admits the addresses of its alias, under that name only", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: ["alias.example"] } });
      assert.deepEqual(await resolve("cdn.example"), "code 3");
      assert.deepEqual(await resolve("alias.example"), [site]);
      assert.deepEqual(await https(site, "alias.example"), { reached: `${site}:443` });
      assert.deepEqual(await https(site, "cdn.example"), reset);
    });

    test("that allows a name with a private address admits none of its addresses", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: ["half-trap.example"] } });
      assert.deepEqual(await resolve("half-trap.example"), "code 3");
      assert.deepEqual(await guest.tcp(site, 22), refused);
    });

    test("that allows a range admits all connections to it, uninspected", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: ["203.0.113.0/28"] } });
      assert.deepEqual(await https(site, "any.example"), { reached: `${site}:443` });
      assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
      assert.deepEqual(await guest.tcp(otherSite, 22), refused);
    });

    test("that denies a range and a name allows everything else", async () => {
      await network.setPolicy({ enabled: true, egress: { deny: ["203.0.113.16/28", "shared.example"] } });
      assert.deepEqual(await resolve("allowed.example"), [site]);
      assert.deepEqual(await resolve("shared.example"), "code 3");
      assert.deepEqual(await https(site, "allowed.example"), { reached: `${site}:443` });
      assert.deepEqual(await https(site, "shared.example"), reset);
      assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
      for (const port of [22, 443]) assert.deepEqual(await guest.tcp(otherSite, port), refused);
    });

    test("that denies a name refuses web connections that do not say exactly one name", async () => {
      await network.setPolicy({ enabled: true, egress: { deny: ["shared.example"] } });
      assert.deepEqual(await http(site, get("allowed.example")), [`200 ${site} allowed.example`]);
      for (const tricky of [
        get("shared.example"),
        get("shared.example.:80:"),
        get("allowed.example", "http://shared.example/"),
        "GET / HTTP/1.1\r\nHost: allowed.example\r\nHost: shared.example\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
      ]) {
        const [answer] = await http(site, tricky);
        assert.match(answer ?? "", /^40[03] /, tricky);
      }
      assert.deepEqual(await https(site), reset);
      assert.deepEqual(await guest.tcp(site, 443, "SSH-2.0-any\r\n"), reset);
      const reasons = network.refusals().map(({ protocol, reason }) => `${protocol}: ${reason}`);
      for (const reason of [
        /^http: the request does not state its host name: its Host is not a domain name$/,
        /^http: the request has a name in its target$/,
        /^http: the request states several host names$/,
        /^http: the request does not state its host name$/,
        /^tls: .*does not state its host name$/,
        /^tls: .*it is not TLS$/,
      ]) {
        assert.ok(
          reasons.some((text) => reason.test(text)),
          String(reason),
        );
      }
    });

    test("that lists the same in both lists denies it", async () => {
      await network.setPolicy({
        enabled: true,
        egress: { allow: ["*.below.example", "203.0.113.0/24"], deny: ["a.below.example", otherSite] },
      });
      assert.deepEqual(await resolve("a.below.example"), "code 3");
      assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
      assert.deepEqual(await guest.tcp(otherSite, 22), refused);
    });

    test("that allows nothing blocks everything", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: [] } });
      assert.deepEqual(await resolve("allowed.example"), "code 3");
      assert.deepEqual(await guest.tcp(site, 22), refused);
    });

    test("never allows private addresses", async () => {
      await network.setPolicy({ enabled: true, egress: { allow: ["0.0.0.0/0"] } });
      assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
      assert.deepEqual(await guest.tcp(worldAddresses.private10, 22), refused);
      await assert.rejects(
        network.setPolicy({ enabled: true, egress: { allow: ["10.0.0.0/8"] } }),
        /cannot be reached/,
      );
      assert.deepEqual(network.policy.egress?.allow, ["0.0.0.0/0"]);
    });

    test("a name server of the host that does not answer or is unreachable is skipped", async () => {
      using second = startFakeResolver(zone, { address: "127.0.0.54" });
      const directory = await mkdtemp(join(tmpdir(), "osb-resolv-"));
      stack.defer(() => rm(directory, { recursive: true }));
      const file = join(directory, "resolv.conf");
      const ask = askOver(hostResolvers(file));
      await writeFile(
        file,
        "# none\nsearch example\nnameserver 2001:db8::9\nnameserver 127.0.0.99\nnameserver 127.0.0.54\n",
      );
      const question = parseQuestion(query("allowed.example"));
      assert.ok(question !== undefined);
      for (const transport of ["udp", "tcp"] as const) {
        const answer = await ask(question, transport, AbortSignal.timeout(30_000));
        assert.equal(parseRecords(answer)?.length, 1);
      }
      assert.deepEqual(second.asked, ["udp allowed.example 1", "tcp allowed.example 1"]);
    });
  });
});
