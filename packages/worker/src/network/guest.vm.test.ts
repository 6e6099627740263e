// The promises of the rules, from real machines: root in a guest tries to reach every forbidden target with the guest's
// own programs. The other tests of this folder show the same packet by packet.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { inNetworkNamespace } from "#host/kernel/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { openTcpListener } from "#host/kernel/sockets.ts";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { macAddressOf } from "#guest/guest-identity.ts";
import { readEntries } from "#machine/journal.ts";
import { startTestHost, type TestHost } from "../testing/test-host.ts";
import { devices, inner, slotNames } from "./address-plan.ts";
import { startFakeResolver } from "./testing/fake-resolver.ts";
import {
  type Arrival,
  greet,
  hear,
  hostAddress,
  type Internet,
  startInternet,
  worldAddresses,
} from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { switchHostRulesOff, switchNamespaceRulesOff } from "./testing/own-world.ts";

const never = new AbortController().signal;
const image = { kind: "image", image: "default" } as const;

const withoutIpv6 = existsSync("/proc/sys/net/ipv6") ? false : "the kernel of this host has no IPv6";

/** Errors of a datagram or of a missing route, as the guest's kernel derives them from ICMP. */
const silentOrRefused = /^(ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|EACCES|TimeoutError|timeout)$/;

/** Prints the outcome of an attempt: the reply, or the name of the error. */
const attempts = `
import errno, socket, struct, sys
def tcp(address, port):
    s = socket.create_connection((address, int(port)), 20)
    s.settimeout(20)
    return s.recv(100).decode().strip()
def udp(address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((address, int(port)))
    s.send(b"hello")
    return s.recv(100).decode()
def dns_over_tcp(address, port):
    query = b"\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x04site\\x07example\\x00\\x00\\x01\\x00\\x01"
    s = socket.create_connection((address, int(port)), 20)
    s.settimeout(20)
    s.send(struct.pack(">H", len(query)) + query)
    return s.recv(100).hex()
def forged(source, address, port):
    data = b"forged"
    udp = struct.pack(">HHHH", 40000, int(port), 8 + len(data), 0) + data
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(address))
    return ip + udp
def wire():
    device = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line and "lo:" not in line][0]
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((device, 0))
    return s
def spoof(source, address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(forged(source, address, port), (address, 0))
    return "sent"
def spoof_mac(mac, address, port):
    ip = forged("${inner.guest}", address, port)
    total = sum(struct.unpack(">10H", ip[:20]))
    total = (total >> 16) + (total & 0xffff)
    ip = ip[:10] + struct.pack(">H", ~total & 0xffff) + ip[12:]
    wire().send(bytes.fromhex("${inner.gatewayMac}".replace(":", "") + mac.replace(":", "")) + b"\\x08\\x00" + ip)
    return "sent"
def arp(source, mac):
    s = wire()
    hw = bytes.fromhex(mac.replace(":", ""))
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, hw, socket.inet_aton(source), b"\\0" * 6, socket.inet_aton("${inner.gateway}"))
    s.send(b"\\xff" * 6 + s.getsockname()[4] + b"\\x08\\x06" + body)
    return "sent"
try:
    print(globals()[sys.argv[1]](*sys.argv[2:]))
except Exception as e:
    print(errno.errorcode.get(getattr(e, "errno", None), type(e).__name__))
`;

// Every refused target exists and answers: the last test reaches all of them, without our rules.
inOwnHost(import.meta.filename, () => {
  suite("root in a guest reaches", () => {
    const stack = new AsyncDisposableStack();
    const arrivals: Arrival[] = [];
    let internet: Internet;
    let host: TestHost;
    let id: SandboxId;
    let other: SandboxId;
    let network: Attached;
    let neighbour: Attached;

    interface Attached {
      readonly slot: number;
      readonly attachment: { readonly namespace: string };
    }

    before(async () => {
      internet = stack.use(await startInternet([22, 53, 443, 5000]));
      stack.use(startFakeResolver({ "site.example": [worldAddresses.site] }));
      stack.use(await serveRepository(internet.namespace));
      host = stack.use(await startTestHost({ network: "tap" }));
      ({ id } = await host.start(image, { organizationId: "org-one" }));
      ({ id: other } = await host.start(image, { organizationId: "org-two" }));
      for (const guest of [id, other]) {
        await host.worker.guest(guest).files.write("/home/sandbox/attempt.py", once(Buffer.from(attempts)), {}, never);
      }
      [network, neighbour] = [await attachedOf(id), await attachedOf(other)];
      const here = "/proc/self/ns/net";
      for (const port of [22, 8080]) {
        stack.use(greet(here, port, arrivals));
        for (const address of [hostAddress, ...[network, neighbour].map(({ slot }) => slotNames(slot).hostAddress)]) {
          stack.use(hear(here, port, arrivals, address));
        }
      }
      stack.use(greet(neighbour.attachment.namespace, 5000, arrivals));
      stack.use(hear(neighbour.attachment.namespace, 5000, arrivals, slotNames(neighbour.slot).outerAddress));
    });
    after(() => stack.disposeAsync());

    async function attachedOf(sandboxId: SandboxId): Promise<Attached> {
      const entry = (await readEntries(host.dataDirectory)).find(({ sandbox }) => sandbox?.id === sandboxId);
      const slot = entry?.machine?.slot ?? assert.fail("the sandbox has no network");
      return { slot, attachment: { namespace: slotNames(slot).namespaceFile } };
    }

    const attempt = async (...words: readonly (string | number)[]): Promise<string> =>
      await host.shell(id, `sudo python3 /home/sandbox/attempt.py ${words.join(" ")}`);

    const seen = (): number => arrivals.length + internet.arrivals.length;

    /** Resolves a name and uses its address. */
    async function assertConnected(guest: SandboxId): Promise<void> {
      assert.match(await host.shell(guest, "getent ahostsv4 site.example"), new RegExp(`^${worldAddresses.site} `));
      assert.equal(
        await host.shell(guest, "rm -rf clone; git clone -q http://site.example/repository clone; cat clone/file"),
        "cloned",
      );
    }

    test("names, and the repository that one of them serves", async () => {
      await assertConnected(id);
      assert.equal(await attempt("tcp", worldAddresses.site, 5000), `${worldAddresses.site}:5000`);
      assert.equal(await attempt("udp", worldAddresses.site, 5000), "hello");
    });

    const forbidden: readonly { readonly what: string; readonly address: () => string; readonly port: number }[] = [
      { what: "a private address 10/8", address: () => worldAddresses.private10, port: 5000 },
      { what: "a private address 172.16/12", address: () => worldAddresses.private172, port: 5000 },
      { what: "a private address 192.168/16", address: () => worldAddresses.private192, port: 5000 },
      { what: "a carrier's address", address: () => worldAddresses.carrier, port: 5000 },
      { what: "a link-local address", address: () => worldAddresses.linkLocal, port: 5000 },
      { what: "a cloud's host services", address: () => worldAddresses.azure, port: 5000 },
      { what: "a name server of its own", address: () => worldAddresses.publicResolver, port: 53 },
      { what: "the host's public address", address: () => hostAddress, port: 22 },
      { what: "the API", address: () => hostAddress, port: 8080 },
      { what: "the host's end of its cable", address: () => slotNames(network.slot).hostAddress, port: 8080 },
      { what: "another guest's cable", address: () => slotNames(neighbour.slot).hostAddress, port: 8080 },
      { what: "another guest's address", address: () => slotNames(neighbour.slot).outerAddress, port: 5000 },
    ];

    for (const { what, address, port } of forbidden) {
      test(`not ${what}`, async () => {
        const before = seen();
        assert.equal(await attempt("tcp", address(), port), "ECONNREFUSED");
        assert.match(await attempt("udp", address(), port), silentOrRefused);
        assert.equal(seen(), before);
      });
    }

    test("not a cloud's metadata service: its address is served by our own", async () => {
      const before = seen();
      assert.equal(await attempt("tcp", worldAddresses.metadata, 5000), "ECONNREFUSED");
      const status = await host.shell(id, `curl -sS http://${worldAddresses.metadata}/v1/status`);
      assert.equal((JSON.parse(status) as { sandboxId: string }).sandboxId, id);
      assert.equal(seen(), before);
    });

    test("not its neighbour of another organization, by any name or address", async () => {
      await host.shell(other, "setsid python3 -m http.server 8000 >/dev/null 2>&1 & sleep 3");
      await host.shell(other, "until curl -sf http://127.0.0.1:8000/ >/dev/null; do sleep 0.2; done");
      // All guests have the same address, so each reaches itself there.
      assert.equal(await attempt("tcp", inner.guest, 8000), "ECONNREFUSED");
      assert.equal(await attempt("tcp", slotNames(neighbour.slot).outerAddress, 8000), "ECONNREFUSED");
      for (const name of [other, `${other}.localhost`, `${other}-p8000.localhost`]) {
        const addresses = await host.shell(id, `getent ahostsv4 ${name} | cut -d' ' -f1 | sort -u || true`);
        assert.match(addresses, /^(127\.0\.0\.1)?$/, name);
      }
    });

    test("DNS over TCP only at its own name server", async () => {
      assert.equal(await attempt("dns_over_tcp", worldAddresses.publicResolver, 53), "ECONNREFUSED");
      const answer = await attempt("dns_over_tcp", inner.nameServer, 53);
      assert.ok(answer.includes(Buffer.from(worldAddresses.site.split(".").map(Number)).toString("hex")), answer);
    });

    /** Gives every hop between the guest and a server on the internet an IPv6 address and a route. */
    async function openWayForIpv6(): Promise<void> {
      const { slot, attachment } = network;
      const everywhere = [internet.namespace, "/proc/self/ns/net", attachment.namespace];
      for (const namespace of everywhere) {
        inNetworkNamespace(namespace, () => {
          for (const setting of ["all/disable_ipv6=0", "default/disable_ipv6=0", "all/forwarding=1"]) {
            const [file, value = ""] = setting.split("=");
            writeFileSync(`/proc/sys/net/ipv6/conf/${file}`, value);
          }
        });
      }
      const cable = slotNames(slot).hostCable;
      const commands = {
        [internet.namespace]: ["addr replace 2001:db8::2/64 dev eth0 nodad", "route replace default via 2001:db8::1"],
        "/proc/self/ns/net": [
          ...["addr replace 2001:db8::1/64 dev eth0 nodad", `addr replace 2001:db8:1::1/64 dev ${cable} nodad`],
          "route replace 2001:db8:2::/64 via 2001:db8:1::2",
        ],
        [attachment.namespace]: [
          ...[`addr replace 2001:db8:1::2/64 dev ${devices.uplink} nodad`, "route replace default via 2001:db8:1::1"],
          `addr replace 2001:db8:2::1/64 dev ${devices.tap} nodad`,
        ],
      };
      for (const [namespace, lines] of Object.entries(commands)) {
        const input = lines.map((line) => `${line}\n`).join("");
        await runCommand("open a way for IPv6", ["ip", "-6", "-batch", "-"], { input, namespace });
      }
      await host.shell(
        id,
        "sudo ip -6 addr replace 2001:db8:2::15/64 dev eth0 nodad && sudo ip -6 route replace default via 2001:db8:2::1",
      );
    }

    const ipv6Target = ["2001:db8::2", 5006] as const;

    test("nothing by IPv6, with or without a route", { skip: withoutIpv6 }, async () => {
      stack.use(greetOverIpv6(internet.namespace, ipv6Target[1], arrivals));
      const before = seen();
      assert.match(await attempt("tcp", ...ipv6Target), silentOrRefused);
      await openWayForIpv6();
      assert.match(await attempt("tcp", ...ipv6Target), silentOrRefused);
      assert.equal(seen(), before);
    });

    /** Sends a forged frame and an ordinary one behind it, whose arrival shows that the first would have arrived. */
    async function afterForging(): Promise<readonly string[]> {
      const from = internet.arrivals.length;
      assert.equal(await attempt("spoof", "10.0.2.77", worldAddresses.site, 5000), "sent");
      // Forges the neighbour's address, and then the device's default.
      assert.equal(await attempt("spoof_mac", macAddressOf(other), worldAddresses.site, 5000), "sent");
      assert.equal(await attempt("spoof_mac", inner.deviceMac, worldAddresses.site, 5000), "sent");
      assert.equal(await attempt("arp", "10.0.2.78", "52:54:00:aa:bb:cc"), "sent");
      assert.equal(await attempt("udp", worldAddresses.site, 5000), "hello");
      return internet.arrivals.slice(from).map(({ text }) => text);
    }

    const believed = async (): Promise<string> =>
      await runCommand("show neighbours", ["ip", "neigh", "show", "10.0.2.78"], network.attachment);

    test("nothing with another guest's address, and its forged ARP is not believed", async () => {
      assert.deepEqual(await afterForging(), ["hello"]);
      assert.equal(await believed(), "");
    });

    test("the same after hibernation and in a fork", async () => {
      const checkpoint = newSnapshotId();
      await host.worker.captureSandbox(id, { snapshotId: checkpoint, contents: "memory and disks" }, never);
      const fork = await host.start(
        { kind: "snapshot", snapshotId: checkpoint, identity: "new" },
        { organizationId: "org-one" },
      );
      await assertConnected(fork.id);
      await host.worker.stopSandbox(fork.id);

      const sleep = newSnapshotId();
      await host.worker.hibernateSandbox(id, sleep, never);
      await host.start({ kind: "snapshot", snapshotId: sleep, identity: "same" }, { id, organizationId: "org-one" });
      network = await attachedOf(id);
      await assertConnected(id);
      const before = seen();
      for (const { address, port } of forbidden) {
        assert.equal(await attempt("tcp", address(), port), "ECONNREFUSED", address());
      }
      assert.equal(seen(), before);
      assert.deepEqual(await afterForging(), ["hello"]);
    });

    test("each of these addresses can be reached without our rules", async () => {
      await switchNamespaceRulesOff(network);
      await switchNamespaceRulesOff(neighbour);
      await switchHostRulesOff();
      for (const { what, address, port } of forbidden) {
        assert.equal(await attempt("tcp", address(), port), `${address()}:${port}`, what);
        // The host's end of its cable has changed since it hibernated, and nothing listens at the old one.
        if (what !== "the host's end of its cable") assert.equal(await attempt("udp", address(), port), "hello", what);
      }
      assert.deepEqual(await afterForging(), ["forged", "forged", "forged", "hello"]);
      assert.match(await believed(), /lladdr/);
    });

    test("IPv6, too, without our rules", { skip: withoutIpv6 }, async () => {
      await openWayForIpv6();
      assert.equal(await attempt("tcp", ...ipv6Target), `${ipv6Target[0]}:${ipv6Target[1]}`);
    });
  });
});

/** Greets like `greet`. */
function greetOverIpv6(namespace: string, port: number, arrivals: Arrival[]): Disposable {
  const server = createTcpServer((socket) => {
    arrivals.push({ port, from: socket.remoteAddress ?? "", text: "connection" });
    socket.on("error", () => socket.destroy());
    socket.end(`${socket.localAddress}:${socket.localPort}\n`);
  });
  // Without an address, listening binds synchronously, to IPv6.
  inNetworkNamespace(namespace, () => server.listen(port));
  return { [Symbol.dispose]: () => void server.close() };
}

async function* once(content: Uint8Array): AsyncGenerator<Uint8Array> {
  yield content;
}

/** A Git repository behind `site.example`, as files. */
async function serveRepository(namespace: string): Promise<AsyncDisposable> {
  const directory = await mkdtemp(join(tmpdir(), "osb-repository-"));
  const git = async (...words: readonly string[]): Promise<unknown> =>
    await promisify(execFile)("git", ["-c", "user.name=t", "-c", "user.email=t@example.com", ...words], {
      cwd: directory,
    });
  await git("init", "-q", "work");
  await promisify(execFile)("sh", ["-c", "echo cloned >work/file"], { cwd: directory });
  await git("-C", "work", "add", "file");
  await git("-C", "work", "commit", "-qm", "a file");
  await git("clone", "-q", "--bare", "work", "repository");
  await git("-C", "repository", "update-server-info");
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "", "http://site.example");
    readFile(join(directory, pathname)).then(
      (content) => response.end(content),
      () => response.writeHead(404).end(),
    );
  });
  server.listen({ fd: openTcpListener(namespace, { address: worldAddresses.site, port: 80 }) });
  return {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await rm(directory, { recursive: true });
    },
  };
}
