import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, before, suite, test } from "node:test";
import { inNetworkNamespace } from "#host/kernel/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { inner } from "./address-plan.ts";
import type { SandboxNetwork } from "./sandbox-network.ts";
import { arpRequest, guestMac, isIpv6, pingIpv6, udpFrame } from "./testing/frames.ts";
import { worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { type OwnWorld, startOwnWorld, switchHostRulesOff, switchNamespaceRulesOff } from "./testing/own-world.ts";
import { plugGuest, type PluggedGuest } from "./testing/plugged-guest.ts";

const otherMac = "52:54:00:aa:bb:cc";
const otherAddress = "10.0.2.77";
// Documentation addresses of IPv6, as 16 bytes.
const insideIpv6 = Buffer.from("20010db8000000000000000000000015", "hex");
const outsideIpv6 = Buffer.from("20010db8000000000000000000000002", "hex");

inOwnHost(import.meta.filename, () => {
  suite("a guest that forges frames", () => {
    const stack = new AsyncDisposableStack();
    let world: OwnWorld;
    let network: SandboxNetwork;
    let guest: PluggedGuest;

    before(async () => {
      world = stack.use(await startOwnWorld());
      ({ network, guest } = await world.plug());
      await network.setPolicy({ enabled: true });
      // IPv6 works on the host and would work in the namespace.
      inNetworkNamespace(network.attachment.namespace, () => {
        for (const device of ["all", "default", "tap0"]) {
          writeFileSync(`/proc/sys/net/ipv6/conf/${device}/disable_ipv6`, "0");
        }
      });
      await inNamespace("add", "address", ["ip", "addr", "add", "2001:db8::2/64", "dev", "tap0", "nodad"]);
      await inNamespace("add", "neighbour", [
        ...["ip", "neigh", "replace", "2001:db8::15", "lladdr", guestMac, "dev", "tap0", "nud", "permanent"],
      ]);
    });
    after(() => stack.disposeAsync());

    async function inNamespace(label: string, what: string, argv: string[]): Promise<string> {
      return await runCommand(`${label} ${what}`, argv as [string], { namespace: network.attachment.namespace });
    }

    /** Sends a frame and an ordinary datagram behind it: a frame that has not arrived before the datagram never will. */
    async function arrived(frame: Buffer): Promise<readonly string[]> {
      const { arrivals } = world.internet;
      const before = arrivals.length;
      guest.sendFrame(frame);
      assert.deepEqual(await guest.udp(worldAddresses.site, 5000, "after it"), { reached: "after it" });
      return arrivals.slice(before).map(({ text }) => text);
    }

    const forged = { to: worldAddresses.site, port: 5000, text: "forged" };
    const frames = {
      "a frame as any other": udpFrame({ ...forged, text: "ordinary" }),
      "another's IP address": udpFrame({ ...forged, from: otherAddress }),
      "another's MAC address": udpFrame({ ...forged, fromMac: otherMac }),
      "the MAC address that its device came with": udpFrame({ ...forged, fromMac: inner.deviceMac }),
    };

    test("a correct frame passes", async () => {
      assert.deepEqual(await arrived(frames["a frame as any other"]), ["ordinary", "after it"]);
    });

    const dropped = [
      "another's IP address",
      "another's MAC address",
      "the MAC address that its device came with",
    ] as const;
    for (const what of dropped) {
      test(`a frame with ${what} does not pass`, async () => {
        assert.deepEqual(await arrived(frames[what]), ["after it"]);
      });
    }

    test("a forged ARP is not believed", async () => {
      await arrived(arpRequest(otherAddress, otherMac));
      assert.equal(await inNamespace("show", "neighbour", ["ip", "neigh", "show", otherAddress]), "");
    });

    test("nothing passes until its MAC address is admitted; then answers are sent to it", async () => {
      await using unknown = await world.pool.claim(world.directory);
      await unknown.setPolicy({ enabled: true });
      await using guest = await plugGuest(unknown);
      assert.deepEqual(await guest.udp(worldAddresses.site, 5000), { refused: "silence" });
      unknown.admit(guestMac);
      // A worker that adopts the network admits the address once more.
      unknown.admit(guestMac);
      assert.deepEqual(await guest.udp(worldAddresses.site, 5000), { reached: "hello" });
      const neighbour = await runCommand("show neighbour", ["ip", "neigh", "show", inner.guest], unknown.attachment);
      assert.equal(neighbour.trim(), `${inner.guest} dev tap0 lladdr ${guestMac} PERMANENT`);
    });

    test("IPv6 is not answered, even where the namespace has an address", async () => {
      const seen = guest.frames.length;
      await arrived(pingIpv6(insideIpv6, outsideIpv6));
      assert.deepEqual(guest.frames.slice(seen).filter(isIpv6), []);
    });

    test("without our rules each of these frames passes", async () => {
      await switchNamespaceRulesOff(network);
      await switchHostRulesOff();
      for (const what of dropped) assert.deepEqual(await arrived(frames[what]), ["forged", "after it"], what);
      await arrived(arpRequest(otherAddress, otherMac));
      assert.match(await inNamespace("show", "neighbour", ["ip", "neigh", "show", otherAddress]), /lladdr/);
      const seen = guest.frames.length;
      await arrived(pingIpv6(insideIpv6, outsideIpv6));
      assert.notDeepEqual(guest.frames.slice(seen).filter(isIpv6), []);
    });
  });
});
