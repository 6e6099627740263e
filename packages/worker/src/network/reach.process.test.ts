import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { slotNames } from "./address-plan.ts";
import type { SandboxNetwork } from "./sandbox-network.ts";
import { type Arrival, greet, hear, hostAddress, worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { type OwnWorld, startOwnWorld, switchHostRulesOff, switchNamespaceRulesOff } from "./testing/own-world.ts";
import type { PluggedGuest } from "./testing/plugged-guest.ts";

// Every refused target exists and answers: the last test reaches all of them, without our rules.
inOwnHost(import.meta.filename, () => {
  suite("what a guest reaches by default", () => {
    const stack = new AsyncDisposableStack();
    let world: OwnWorld;
    let network: SandboxNetwork;
    let neighbour: SandboxNetwork;
    let guest: PluggedGuest;
    const arrivals: Arrival[] = [];

    before(async () => {
      world = stack.use(await startOwnWorld());
      ({ network, guest } = await world.plug());
      neighbour = stack.use(await world.pool.claim(world.directory));
      await network.setPolicy({ enabled: true });
      await neighbour.setPolicy({ enabled: true });
      // Services on the host, and in the neighbour's namespace in its guest's place.
      const host = "/proc/self/ns/net";
      for (const port of [22, 8080]) {
        stack.use(greet(host, port, arrivals));
        for (const address of [hostAddress, ...[network, neighbour].map(({ slot }) => slotNames(slot).hostAddress)]) {
          stack.use(hear(host, port, arrivals, address));
        }
      }
      const { namespace } = neighbour.attachment;
      stack.use(greet(namespace, 5000, arrivals));
      stack.use(hear(namespace, 5000, arrivals, slotNames(neighbour.slot).outerAddress));
    });
    after(() => stack.disposeAsync());

    test("the internet", async () => {
      assert.deepEqual(await guest.tcp(worldAddresses.site, 80), { reached: `${worldAddresses.site}:80` });
      assert.deepEqual(await guest.tcp(worldAddresses.site, 5000), { reached: `${worldAddresses.site}:5000` });
      assert.deepEqual(await guest.udp(worldAddresses.site, 5000), { reached: "hello" });
    });

    const forbidden: readonly {
      readonly what: string;
      readonly address: () => string;
      readonly port: number;
      /** Only the rules of the namespace refuse this address. */
      readonly policyOnly?: true;
    }[] = [
      { what: "a private address 10/8", address: () => worldAddresses.private10, port: 5000 },
      { what: "a private address 172.16/12", address: () => worldAddresses.private172, port: 5000 },
      { what: "a private address 192.168/16", address: () => worldAddresses.private192, port: 5000 },
      { what: "a carrier's address", address: () => worldAddresses.carrier, port: 5000 },
      { what: "a link-local address", address: () => worldAddresses.linkLocal, port: 5000 },
      { what: "a reserved address", address: () => worldAddresses.benchmark, port: 5000 },
      { what: "Azure's host services", address: () => worldAddresses.azure, port: 80 },
      { what: "a name server of its own", address: () => worldAddresses.publicResolver, port: 53, policyOnly: true },
      { what: "the host's public address", address: () => hostAddress, port: 22 },
      { what: "the API", address: () => hostAddress, port: 8080 },
      { what: "the host's end of its cable", address: () => slotNames(network.slot).hostAddress, port: 8080 },
      { what: "another guest's cable", address: () => slotNames(neighbour.slot).hostAddress, port: 8080 },
      { what: "another guest's address", address: () => slotNames(neighbour.slot).outerAddress, port: 5000 },
    ];

    /**
     * Datagrams are refused by ICMP; without `isAnswered` they may be dropped, since the host limits its ICMP errors.
     */
    async function assertRefused(
      address: string,
      port: number,
      { isAnswered }: { readonly isAnswered: boolean },
    ): Promise<void> {
      const seen = arrivals.length + world.internet.arrivals.length;
      assert.deepEqual(await guest.tcp(address, port), { refused: "ECONNREFUSED" });
      const datagram = await guest.udp(address, port);
      assert.ok("refused" in datagram && !(isAnswered && datagram.refused === "silence"), JSON.stringify(datagram));
      assert.equal(arrivals.length + world.internet.arrivals.length, seen);
    }

    for (const { what, address, port } of forbidden) {
      test(`not ${what}: refused at once, and on record`, async () => {
        await assertRefused(address(), port, { isAnswered: true });
        const recorded = network.refusals().filter((refusal) => refusal.address === address() && refusal.port === port);
        assert.deepEqual(new Set(recorded.map(({ protocol }) => protocol)), new Set(["tcp", "udp"]));
      });
    }

    test("not a cloud's metadata service: its address is served by our own", async () => {
      const seen = world.internet.arrivals.length;
      assert.deepEqual(await guest.tcp(worldAddresses.metadata, 5000), { refused: "ECONNREFUSED" });
      const answer = await guest.tcp(worldAddresses.metadata, 80, "GET / HTTP/1.0\r\n\r\n");
      assert.ok("reached" in answer && answer.reached.startsWith("HTTP/1.1 200"), JSON.stringify(answer));
      assert.equal(world.internet.arrivals.length, seen);
    });

    test("nor any of these when the rules of its namespace are gone", async () => {
      await switchNamespaceRulesOff(network);
      await switchNamespaceRulesOff(neighbour);
      for (const { address, port, policyOnly } of forbidden) {
        if (policyOnly === undefined) await assertRefused(address(), port, { isAnswered: false });
      }
    });

    test("without any rules of ours each of these is reached", async () => {
      await switchHostRulesOff();
      for (const { what, address, port } of forbidden) {
        assert.deepEqual(await guest.tcp(address(), port), { reached: `${address()}:${port}` }, what);
        assert.deepEqual(await guest.udp(address(), port), { reached: "hello" }, what);
      }
    });
  });
});
