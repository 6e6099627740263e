import assert from "node:assert/strict";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createServer } from "node:http";
import { connect, createServer as createTcpServer } from "node:net";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { openTcpListener } from "../../packages/worker/src/host/sockets.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { inner, slotNames } from "../../packages/worker/src/network/address-plan.ts";
import { startFakeResolver } from "../../packages/worker/src/network/testing/fake-resolver.ts";
import { arpRequest, udpFrame } from "../../packages/worker/src/network/testing/frames.ts";
import {
  type Arrival,
  greet,
  hear,
  hostAddress,
  type Internet,
  startInternet,
  worldAddresses,
} from "../../packages/worker/src/network/testing/internet.ts";
import { inOwnHost } from "../../packages/worker/src/network/testing/own-host.ts";
import { nft, switchHostRulesOff } from "../../packages/worker/src/network/testing/own-world.ts";
import { startWorld, type World } from "./world.ts";

const { site, otherSite } = worldAddresses;
const otherMac = "52:54:00:aa:bb:cc";
const otherAddress = "10.0.2.77";

/** Tries each target by TCP and by UDP, as root of the guest; prints for each what came of it. */
const tryAll = `
import json, socket, sys
def attempt(kind, address, port):
  try:
    with socket.socket(socket.AF_INET, kind) as s:
      s.settimeout(4)
      s.connect((address, port))
      if kind == socket.SOCK_DGRAM: s.send(b"hello")
      return "reached" if s.recv(100) else "end"
  except Exception as e: return type(e).__name__
print(json.dumps([[attempt(k, a, p) for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)] for a, p in json.loads(sys.argv[1])]))
`;

/** Puts frames on the wire past the guest's own kernel, each followed by an ordinary datagram that is answered. */
const sendFrames = `
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
for frame in sys.argv[3:]:
  raw.send(bytes.fromhex(frame))
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(20)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"after it")
    s.recv(100)
`;

// Everything that is refused here exists and answers: the last test reaches all of it, without our rules.
inOwnHost(import.meta.filename, () => {
  suite("root in a real machine", () => {
    const stack = new AsyncDisposableStack();
    const arrivals: Arrival[] = [];
    let internet: Internet;
    let world: World;
    let sandbox: Sandbox;
    let neighbour: Sandbox;
    let forbidden: (readonly [address: string, port: number])[];

    before(async () => {
      internet = stack.use(await startInternet([22, 53, 5000]));
      stack.use(startFakeResolver({ "site.example": [site], "trap.example": [worldAddresses.private10] }));
      const web = createServer((request, response) => response.end(`page of ${request.headers.host}`));
      web.listen({ fd: openTcpListener(internet.namespace, { address: "0.0.0.0", port: 80 }) });
      stack.defer(() => void web.close());
      world = stack.use(await startWorld());
      // The API listens on the loopback alone; what leads there from the host's address makes it a target.
      const { port } = new URL(world.url);
      const api = createTcpServer((socket) => {
        const inward = connect(Number(port), "127.0.0.1");
        socket.on("error", () => inward.destroy());
        inward.on("error", () => socket.destroy());
        socket.pipe(inward).pipe(socket);
      });
      api.listen(Number(port), hostAddress);
      await once(api, "listening");
      stack.defer(() => void api.close());
      const options = { template: "minimal", apiUrl: world.url, apiKey: world.apiKey };
      sandbox = await Sandbox.create(options);
      const own = new Set(await occupied());
      neighbour = await Sandbox.create(options);
      const [slot] = (await occupied()).filter((slot) => !own.has(slot));
      assert.ok(slot !== undefined, "the neighbour has a namespace of its own");
      const { hostAddress: cable, namespaceFile, outerAddress } = slotNames(slot);
      const host = "/proc/self/ns/net";
      stack.use(greet(host, 5353, arrivals));
      for (const address of [hostAddress, cable]) stack.use(hear(host, 5353, arrivals, address));
      // Where the neighbour's packets come from.
      stack.use(greet(namespaceFile, 5000, arrivals));
      stack.use(hear(namespaceFile, 5000, arrivals, outerAddress));
      const { private10, private172, private192, carrier, linkLocal, benchmark, azure } = worldAddresses;
      forbidden = [
        ...[private10, private172, private192, carrier, linkLocal, benchmark, azure].map(
          (address) => [address, 5000] as const,
        ),
        [worldAddresses.publicResolver, 53],
        [hostAddress, 5353],
        [cable, 5353],
        [outerAddress, 5000],
      ];
    });
    after(() => stack.disposeAsync());

    async function namespaces(): Promise<number[]> {
      const names = await readdir("/run/netns");
      return names.filter((name) => name.startsWith("osb-")).map((name) => Number(name.slice("osb-".length)));
    }

    /** Those that a machine has. */
    async function occupied(): Promise<number[]> {
      const slots = await namespaces();
      const processes = await Promise.all(
        slots.map((slot) => runCommand("list processes", ["ip", "netns", "pids", slotNames(slot).namespace])),
      );
      return slots.filter((_, index) => processes[index]?.trim() !== "");
    }

    async function python(program: string, args: readonly string[], machine = sandbox): Promise<string> {
      const quoted = args.map((arg) => `'${arg}'`).join(" ");
      const { stdout, stderr, exitCode } = await machine.commands.run(`sudo python3 -c '${program}' ${quoted}`, {
        timeout: 300,
      });
      assert.equal(exitCode, 0, stderr);
      return stdout;
    }

    async function outcomes(targets: typeof forbidden, machine = sandbox): Promise<readonly (readonly string[])[]> {
      return JSON.parse(await python(tryAll, [JSON.stringify(targets)], machine)) as string[][];
    }

    async function assertClosed(machine = sandbox): Promise<void> {
      const seen = arrivals.length + internet.arrivals.length;
      const all = await outcomes(forbidden, machine);
      for (const [index, [tcp, udp]] of all.entries()) {
        assert.equal(tcp, "ConnectionRefusedError", String(forbidden[index]));
        assert.ok(udp !== "reached", String(forbidden[index]));
      }
      assert.equal(all.length, forbidden.length);
      assert.equal(arrivals.length + internet.arrivals.length, seen);
      const { port } = new URL(world.url);
      assert.equal(await page(`http://${hostAddress}:${port}/health`, machine), "7");
    }

    /** What a page says, or curl's exit code: 7 is a refused connection, 6 a name that does not exist. */
    async function page(url: string, machine = sandbox): Promise<string> {
      return (await machine.commands.run(`curl -sS --max-time 60 ${url} 2>/dev/null || echo $?`)).stdout.trim();
    }

    async function assertOpen(machine = sandbox): Promise<void> {
      assert.equal(await page("http://site.example/", machine), "page of site.example");
      assert.deepEqual(await outcomes([[site, 5000]], machine), [["reached", "reached"]]);
      assert.equal(await page("http://trap.example/", machine), "6");
    }

    /** Which of the datagrams have come to the internet. */
    async function arrived(...frames: Buffer[]): Promise<readonly string[]> {
      const before = internet.arrivals.length;
      await python(sendFrames, [site, "5000", ...frames.map((frame) => frame.toString("hex"))]);
      return internet.arrivals
        .slice(before)
        .map(({ text }) => text)
        .filter((text) => text !== "after it");
    }

    /** In any namespace: whether the host has come to believe that there is another guest. */
    async function believed(): Promise<boolean> {
      const seen = await Promise.all(
        (await namespaces()).map((slot) =>
          runCommand("show neighbours", ["ip", "neigh", "show", otherAddress], {
            namespace: slotNames(slot).namespaceFile,
          }),
        ),
      );
      return seen.some((text) => text.includes("lladdr"));
    }

    const to = { to: site, port: 5000 };
    const frames = [
      udpFrame({ ...to, text: "ordinary" }),
      udpFrame({ ...to, text: "other IP", from: otherAddress }),
      udpFrame({ ...to, text: "other MAC", fromMac: otherMac }),
      arpRequest(otherAddress, otherMac),
    ];

    test("reaches the internet by name and address", () => assertOpen());

    test("reaches nothing that is forbidden, which is told at once", () => assertClosed());

    test("sends nothing under another's address, and its forged ARP is not believed", async () => {
      assert.deepEqual(await arrived(...frames), ["ordinary"]);
      assert.equal(await believed(), false);
    });

    test("is alone at its address, which its neighbour has as well", async () => {
      const serve =
        "setsid python3 -m http.server 6000 > /dev/null 2>&1 & until curl -so /dev/null $URL; do sleep 0.2; done";
      await neighbour.commands.run(serve, { env: { URL: `http://${inner.guest}:6000/` } });
      assert.match(await page(`http://${inner.guest}:6000/`, neighbour), /Directory listing/);
      assert.equal(await page(`http://${inner.guest}:6000/`), "7");
    });

    test("has the same after a sleep", async () => {
      await sandbox.hibernate();
      await assertOpen();
      await assertClosed();
    });

    test("has the same in a fork", async () => {
      const checkpoint = await sandbox.createCheckpoint("network");
      const fork = await Sandbox.createFromCheckpoint(checkpoint.id, { apiUrl: world.url, apiKey: world.apiKey });
      await assertOpen(fork);
      await assertClosed(fork);
      await fork.kill();
    });

    test("has only what a list of names lets out", async () => {
      const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/network`, {
        method: "PUT",
        headers: { "X-API-Key": world.apiKey },
        body: JSON.stringify({ egress: { allow: ["site.example", "trap.example"] } }),
      });
      assert.equal(response.status, 200);
      await assertOpen();
      assert.equal(await page("http://other.example/"), "6");
      assert.equal((await outcomes([[otherSite, 5000]]))[0]?.[0], "ConnectionRefusedError");
      assert.match(await page(`--resolve other.example:80:${site} http://other.example/`), /does not allow this name/);
      await assertClosed();
    });

    test("without any rules of ours reaches all of it", async () => {
      for (const slot of await namespaces()) {
        const masquerade = "table ip off { chain out { type nat hook postrouting priority srcnat; masquerade; }; }";
        await nft(`flush ruleset\n${masquerade}`, slotNames(slot).namespaceFile);
      }
      await switchHostRulesOff();
      const all = await outcomes(forbidden);
      for (const [index, outcome] of all.entries()) {
        assert.deepEqual(outcome, ["reached", "reached"], String(forbidden[index]));
      }
      const { port } = new URL(world.url);
      assert.match(await page(`http://${hostAddress}:${port}/health`), /"ok"/);
      assert.deepEqual(await arrived(...frames), ["ordinary", "other IP", "other MAC"]);
      assert.equal(await believed(), true);
    });
  });
});
