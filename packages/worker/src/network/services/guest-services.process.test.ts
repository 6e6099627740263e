import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { getCompileCacheDir } from "node:module";
import { type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { processState } from "#host/process-state.ts";
import { runCommand } from "#host/run-command.ts";
import { openUdpSocket } from "#host/kernel/sockets.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { formatIpv4 } from "@opensandbox/wire/ipv4.ts";
import { inner } from "../address-plan.ts";
import type { MetadataSource } from "../metadata-service.ts";
import { parseRecords } from "../names/dns-message.ts";
import type { SandboxNetwork } from "../sandbox-network.ts";
import { clientHello } from "../testing/client-hello.ts";
import { query, startFakeResolver } from "../testing/fake-resolver.ts";
import { worldAddresses } from "../testing/internet.ts";
import { inOwnHost } from "../testing/own-host.ts";
import { type OwnWorld, startOwnWorld } from "../testing/own-world.ts";
import type { PluggedGuest } from "../testing/plugged-guest.ts";
import { GuestServices } from "./guest-services.ts";

const { site } = worldAddresses;
const policy = { enabled: true, egress: { allow: ["allowed.example"] } };

/** The promise is two seconds. A crowded host gets more time for the same steps. */
const backWithinMs = 30_000;

inOwnHost(import.meta.filename, () => {
  suite("the process of the guest-facing services", () => {
    let stack: AsyncDisposableStack;
    let world: OwnWorld;
    let network: SandboxNetwork;
    let guest: PluggedGuest;

    async function start(module?: string): Promise<void> {
      const servicesModule = module === undefined ? {} : { servicesModule: join(import.meta.dirname, module) };
      world = stack.use(await startOwnWorld({ ports: [22, 443], ...servicesModule }));
      stack.use(startFakeResolver({ "allowed.example": [site] }));
      ({ network, guest } = await world.plug());
      network.identify(metadata);
      await network.setPolicy(policy);
    }

    beforeEach(() => {
      stack = new AsyncDisposableStack();
    });
    afterEach(() => stack.disposeAsync());

    function pid(): number {
      return world.pool.services.pid ?? assert.fail("there is no process");
    }

    /** The addresses of a name. Repeats the question until it is answered. */
    async function resolve(of = guest): Promise<readonly string[]> {
      const socket = createSocket("udp4");
      socket.bind({ fd: openUdpSocket(of.namespace, { address: "0.0.0.0", port: 0 }) });
      socket.on("error", () => undefined);
      const answer = Promise.withResolvers<Buffer>();
      socket.on("message", answer.resolve);
      const asking = setInterval(() => socket.send(query("allowed.example"), 53, inner.nameServer), 50);
      const late = setTimeout(() => answer.reject(new Error("no name was resolved in time")), backWithinMs);
      try {
        const records = parseRecords(await answer.promise) ?? [];
        return records.map(({ data }) => formatIpv4(data.readUInt32BE()));
      } finally {
        clearInterval(asking);
        clearTimeout(late);
        socket.close();
      }
    }

    /** A connection through the proxy that was answered. */
    async function openWeb(): Promise<Socket> {
      const socket = guest.connect(site, 443);
      stack.defer(() => void socket.destroy());
      socket.on("error", () => socket.destroy());
      socket.write(await clientHello("allowed.example"));
      await once(socket, "data", { signal: AbortSignal.timeout(backWithinMs) });
      return socket;
    }

    async function ask(path: string): Promise<string> {
      const socket = guest.connect(inner.metadata, 80);
      socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`);
      let text = "";
      for await (const chunk of socket) text += String(chunk);
      return text;
    }

    async function assertAllServed(): Promise<void> {
      assert.deepEqual(await resolve(), [site]);
      (await openWeb()).destroy();
      assert.match(await ask("/v1/status"), /^HTTP\/1\.1 200 [^]*sb-00000001/);
    }

    /**
     * Checks the features that need no service: connections that the kernel judges, policies, networks for new
     * machines.
     */
    async function assertRestGoesOn(standing: Socket): Promise<void> {
      standing.write("ping");
      const [echo] = (await eventOf(standing, "data")) as [Buffer];
      assert.equal(String(echo), "ping");
      assert.deepEqual(await guest.tcp(site, 22), { reached: `${site}:22` });
      const second = await world.plug();
      await second.network.setPolicy({ enabled: true });
      assert.deepEqual(await second.guest.tcp(site, 22), { reached: `${site}:22` });
      await network.setPolicy({ enabled: true, egress: { allow: ["allowed.example", "more.example"] } });
    }

    /** The process of the services that does not serve and is not `not`, once it runs the module. */
    async function spareOf(serving: number, not = 0): Promise<number> {
      return await eventually("a spare process waits", async () => {
        const children = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ").map(Number);
        const others = children.filter((child) => child !== serving && child !== not);
        // The process has become another user when it has loaded everything.
        return others.find((child) => /^Uid:\t1899999999\t/m.test(statusOf(child)));
      });
    }

    function statusOf(pid: number): string {
      try {
        return readFileSync(`/proc/${pid}/status`, "utf8");
      } catch {
        return "";
      }
    }

    /** The processor time of the process after half a second without work. */
    async function settledBusyMs(pid: number): Promise<number | undefined> {
      await delay(500);
      return processState(pid)?.busyMs;
    }

    async function openDirect(): Promise<Socket> {
      const socket = guest.connect(site, 22);
      stack.defer(() => void socket.destroy());
      socket.on("error", () => socket.destroy());
      await eventOf(socket, "data");
      return socket;
    }

    const faults = {
      killed: ["SIGKILL", /ended with SIGKILL/],
      stopped: ["SIGSTOP", /was stopped by a signal/],
      // On a crowded host the second of silence is over before the loop has had its time.
      "looping for ever": ["SIGUSR2", /has computed for 250 ms without an answer|has not answered for a second/],
    } as const;
    for (const [what, [signal, reason]] of Object.entries(faults)) {
      test(`${what}: nothing else waits or fails, and it is back with all networks`, async (t) => {
        await start("../testing/looping-services.ts");
        await assertAllServed();
        const [standing, proxied] = [await openDirect(), await openWeb()];
        const first = pid();
        await spareOf(first);
        const closed = once(proxied.resume(), "close", { signal: AbortSignal.timeout(backWithinMs) });
        const begun = performance.now();
        process.kill(first, signal);
        const resolved = resolve().then((addresses) => ({ addresses, afterMs: performance.now() - begun }));
        await assertRestGoesOn(standing);
        const { addresses, afterMs } = await resolved;
        assert.deepEqual(addresses, [site]);
        t.diagnostic(`${what}: names after ${Math.round(afterMs)} ms`);
        await closed;
        await assertAllServed();
        assert.notEqual(pid(), first);
        assert.match(world.logged.find((line) => line.includes("started again")) ?? "", reason);
      });
    }

    test("a spare process waits without work, takes over at once, and is replaced when it ends", async () => {
      await start();
      await assertAllServed();
      const first = pid();
      const spare = await spareOf(first);
      process.kill(spare, "SIGKILL");
      const second = await spareOf(first, spare);
      await delay(500);
      assert.equal(pid(), first);
      const busy = processState(second)?.busyMs;
      assert.ok(busy !== undefined);
      assert.equal(await settledBusyMs(second), busy);
      process.kill(first, "SIGKILL");
      assert.deepEqual(await resolve(), [site]);
      assert.equal(pid(), second);
      await assertAllServed();
    });

    test("has no rights, no secrets, and no network", async () => {
      await start();
      await assertAllServed();
      const directory = `/proc/${pid()}`;
      for (const task of readdirSync(`${directory}/task`)) {
        const status = readFileSync(`${directory}/task/${task}/status`, "utf8");
        assert.match(status, /^Uid:\t1899999999\t1899999999\t1899999999\t1899999999$/m);
        assert.match(status, /^Gid:\t1899999999\t1899999999\t1899999999\t1899999999$/m);
        assert.match(status, /^Groups:\t *$/m);
        for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
          assert.match(status, new RegExp(`^${set}:\t0+$`, "m"), set);
        }
        assert.match(status, /^NoNewPrivs:\t1$/m);
      }
      const environment = readFileSync(`${directory}/environ`, "utf8")
        .split("\0")
        .filter((entry) => entry !== "");
      assert.deepEqual(
        environment.map((entry) => entry.split("=")[0]),
        // The cache is root's, and the process reads it before it becomes another user.
        getCompileCacheDir() === undefined ? ["PATH"] : ["PATH", "NODE_COMPILE_CACHE"],
      );
      const devices = readFileSync(`${directory}/net/dev`, "utf8").trim().split("\n").slice(2);
      assert.deepEqual(
        devices.map((line) => line.trim().split(":")[0]).filter((device) => device === "lo" || device === "eth0"),
        ["lo"],
      );
      const limits = readFileSync(`${directory}/limits`, "utf8");
      assert.match(limits, /^Max file size +0 +0 /m);
      assert.match(limits, /^Max core file size +0 +0 /m);
      assert.match(limits, /^Max address space +\d+ +\d+ /m);
    });

    test("gets nothing from the worker that the policy does not allow, and an invalid message ends it", async () => {
      await start("../testing/hostile-services.ts");
      const deadline = performance.now() + backWithinMs;
      while (!world.logged.some((line) => line.includes("invalid message"))) {
        assert.ok(performance.now() < deadline, world.logged.join("\n"));
        await delay(20);
      }
      const report = world.logged.find((line) => line.includes("a network service of a sandbox has failed"));
      const fields = JSON.parse(report ?? "[]") as [string, string, { readonly error: string }];
      assert.deepEqual(fields[2].error.split("\n"), [
        '0: {"refusal":"the network policy does not allow this address"}',
        '1: {"refusal":"the network policy does not allow this address"}',
        '2: {"refusal":"the address is not one of this name"}',
        '3: {"refusal":"the network policy does not allow this name"}',
        '4: {"refusal":"the connection does not state its host name"}',
        '5: {"refusal":"only ports 80 and 443 are reached through the proxy"}',
        '6: {"refusal":"the network policy does not allow this address"}',
        '7: {"error":"the network policy does not allow this name"}',
        '8: {"error":"the network policy does not allow this name"}',
        '99: {"error":"the network is gone"}',
      ]);
      assert.deepEqual(await guest.tcp(site, 22), { refused: "ECONNREFUSED" });
    });

    test("serves many networks again after it was killed, and the worker closes their descriptors in the end", async () => {
      await start();
      await assertAllServed();
      const second = await world.plug();
      const descriptors = readdirSync("/proc/self/fd").length;
      {
        await using claimed = new AsyncDisposableStack();
        const others = await Promise.all(Array.from({ length: 24 }, () => world.pool.claim(world.directory)));
        for (const other of others) claimed.use(other);
        await Promise.all(others.map((other) => other.setPolicy(policy)));
        await second.network.setPolicy(policy);
        process.kill(pid(), "SIGKILL");
        assert.deepEqual(await resolve(second.guest), [site]);
        assert.deepEqual(await resolve(), [site]);
      }
      await assertAllServed();
      // The 24 networks had 96 of them; the second network has one more than before.
      const left = readdirSync("/proc/self/fd").length - descriptors;
      assert.ok(left < 20, `${left} descriptors were left`);
    });

    for (const left of [0, 2]) {
      test(`starts when the host has descriptors again, after it had ${left}`, async () => {
        const services = stack.use(
          new GuestServices({ log: () => undefined, openResolver: () => Promise.reject(new Error("nobody asks")) }),
        );
        await runCommand("lower the limit", ["prlimit", "--pid", String(process.pid), "--nofile=512:"]);
        const opened: number[] = [];
        try {
          for (;;) opened.push(openSync("/dev/null", "r"));
        } catch (error) {
          assert.equal((error as NodeJS.ErrnoException).code, "EMFILE");
        }
        for (const descriptor of opened.splice(0, left)) closeSync(descriptor);
        services.start();
        assert.equal(services.pid, undefined);
        for (const descriptor of opened) closeSync(descriptor);
        const deadline = performance.now() + backWithinMs;
        while (services.pid === undefined) {
          assert.ok(performance.now() < deadline, "the services were not started again");
          await delay(20);
        }
      });
    }

    test("ends with the worker", async () => {
      await start();
      await assertAllServed();
      const first = pid();
      await world.pool[Symbol.asyncDispose]();
      assert.throws(() => process.kill(first, 0), /ESRCH/);
    });
  });
});

const metadata: MetadataSource = {
  status: () => ({ sandboxId: "sb-00000001", uptime: 7 }),
  limits: () => Promise.resolve({}),
  metadata: () => ({ region: "here", template: "default" }),
  scale: () => Promise.resolve({ status: 200, body: {} }),
};
