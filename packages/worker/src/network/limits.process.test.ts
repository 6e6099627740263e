import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { runCommand } from "#host/run-command.ts";
import { defaultLimits } from "./namespace-rules.ts";
import type { SandboxNetwork } from "./sandbox-network.ts";
import { udpFrame } from "./testing/frames.ts";
import { worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { type OwnWorld, startOwnWorld } from "./testing/own-world.ts";
import type { PluggedGuest } from "./testing/plugged-guest.ts";

const limits = { ...defaultLimits, bandwidthMbit: 8, connections: 20, packetsPerSecond: 2000 };
const { site } = worldAddresses;

inOwnHost(import.meta.filename, () => {
  suite("what one guest may use", () => {
    const stack = new AsyncDisposableStack();
    let world: OwnWorld;
    let network: SandboxNetwork;
    let guest: PluggedGuest;
    let neighbour: PluggedGuest;

    before(async () => {
      world = stack.use(await startOwnWorld({ limits, ports: [5000] }));
      ({ network, guest } = await world.plug());
      const second = await world.plug();
      neighbour = second.guest;
      await network.setPolicy({ enabled: true });
      await second.network.setPolicy({ enabled: true });
    });
    after(() => stack.disposeAsync());

    test("bandwidth, in both directions", async () => {
      const megabytes = 3;
      const begun = performance.now();
      const before = network.traffic();
      const socket = guest.connect(site, 5000);
      await eventOf(socket, "connect");
      // The server echoes after its greeting.
      socket.end(Buffer.alloc(megabytes * 2 ** 20));
      let received = 0;
      socket.on("data", (chunk: Buffer) => (received += chunk.length));
      await eventOf(socket, "close");
      const seconds = (performance.now() - begun) / 1000;
      assert.ok(received >= megabytes * 2 ** 20);
      // The burst is a quarter of a megabyte.
      const least = ((megabytes - 0.5) * 2 ** 20 * 8) / (limits.bandwidthMbit * 1e6);
      assert.ok(seconds >= least, `${seconds} s, and ${least} s are the least that the limit allows`);
      const { sentBytes, receivedBytes, leavingBytes } = network.traffic();
      assert.ok(leavingBytes - before.leavingBytes >= megabytes * 2 ** 20);
      assert.ok(sentBytes - before.sentBytes >= megabytes * 2 ** 20);
      assert.ok(receivedBytes - before.receivedBytes >= megabytes * 2 ** 20);
    });

    test("concurrent connections: one more is refused, and succeeds when another has ended", async () => {
      const sockets = [];
      for (let count = 0; count < limits.connections; count += 1) {
        const socket = guest.connect(site, 5000);
        sockets.push(socket);
        await eventOf(socket, "data");
      }
      assert.deepEqual(await guest.tcp(site, 5000), { refused: "ECONNREFUSED" });
      assert.deepEqual(await neighbour.tcp(site, 5000), { reached: `${site}:5000` });
      for (const socket of sockets) socket.resetAndDestroy();
      // The kernel forgets closed connections after some time.
      for (let outcome = await guest.tcp(site, 5000); !("reached" in outcome); outcome = await guest.tcp(site, 5000)) {
        assert.deepEqual(outcome, { refused: "ECONNREFUSED" });
      }
    });

    test("packets: those above the rate are dropped before any other work, and a neighbour is not affected", async () => {
      const frame = udpFrame({ to: site, port: 5000, text: "flood" });
      const begun = performance.now();
      const sent = 20_000;
      const seen = world.internet.arrivals.length;
      for (let count = 0; count < sent; count += 1) guest.sendFrame(frame);
      const neighbours = Promise.all(Array.from({ length: 10 }, () => neighbour.tcp(site, 5000)));
      for (const outcome of await neighbours) assert.deepEqual(outcome, { reached: `${site}:5000` });
      const seconds = (performance.now() - begun) / 1000;
      const passed = world.internet.arrivals.slice(seen).filter(({ text }) => text === "flood").length;
      assert.ok(passed <= limits.packetsPerSecond * (1 + seconds), `${passed} packets in ${seconds} s`);
      const rules = await runCommand("list rules", ["nft", "list", "table", "netdev", "opensandbox"], {
        namespace: network.attachment.namespace,
      });
      const dropped = Number(/limit rate over .* counter packets (\d+)/.exec(rules)?.[1]);
      assert.ok(dropped > 0 && dropped <= sent - passed, `${dropped} of ${sent} dropped`);
    });
  });
});
