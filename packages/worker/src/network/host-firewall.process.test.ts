import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { suite, test } from "node:test";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { watchRules } from "#host/kernel/netfilter.ts";
import { runCommand } from "#host/run-command.ts";
import { worldAddresses } from "./testing/internet.ts";
import { hostTraces } from "./testing/host-traces.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { nft, startOwnWorld } from "./testing/own-world.ts";

const { site } = worldAddresses;

/** Docker's setup, with a rule of the administrator's. */
const docker = `
table ip filter {
  chain DOCKER-USER { ip daddr ${worldAddresses.otherSite} counter drop; return; }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; iifname "docker0" accept; }
}
table inet filter {
  chain input { type filter hook input priority filter; policy accept; }
  chain forward { type filter hook forward priority filter; policy drop; }
}`;

inOwnHost(import.meta.filename, () => {
  suite("a host with a firewall of its own", () => {
    test("that drops forwarded packets lets guests through, keeps its own rules, and is restored in the end", async () => {
      await nft(docker);
      const before = await hostTraces();
      {
        await using world = await startOwnWorld();
        const { network, guest } = await world.plug();
        await network.setPolicy({ enabled: true });
        assert.deepEqual(await guest.tcp(site, 5000), { reached: `${site}:5000` });
        assert.deepEqual(await guest.tcp(worldAddresses.otherSite, 5000), { refused: "silence" });
        assert.deepEqual(await guest.tcp(worldAddresses.private10, 5000), { refused: "ECONNREFUSED" });
        // A second server finds the rules of the first and adds none.
        const rules = (await hostTraces())["rules"];
        {
          await using second = await startSecond();
          assert.deepEqual((await hostTraces())["rules"], rules);
          await second[Symbol.asyncDispose]();
        }
        assert.deepEqual(await guest.tcp(site, 5000), { reached: `${site}:5000` });
      }
      const after = await hostTraces();
      // The administrator's rule has counted packets.
      assert.deepEqual(withoutCounters(after["rules"]), withoutCounters(before["rules"]));
      assert.deepEqual({ ...after, rules: [] }, { ...before, rules: [] });
      await nft("flush ruleset");
    });

    test("that reloads removes our rules, and they are restored", async () => {
      await using world = await startOwnWorld();
      const { network, guest } = await world.plug();
      await network.setPolicy({ enabled: true });
      assert.deepEqual(await guest.tcp(site, 5000), { reached: `${site}:5000` });
      for (const reload of ["flush ruleset", `flush ruleset${docker}`]) {
        await nft(reload);
        await untilRules((rules) => rules.includes('comment "opensandbox"') || !reload.includes("docker0"));
        await untilRules((rules) => rules.includes("table inet opensandbox"));
        assert.deepEqual(await guest.tcp(site, 5000), { reached: `${site}:5000` }, reload);
        assert.deepEqual(await guest.tcp(worldAddresses.private10, 5000), { refused: "ECONNREFUSED" });
      }
      assert.deepEqual(world.logged, []);
      await nft("delete table ip filter; delete table inet filter");
    });

    for (const program of ["iptables-legacy", "iptables-nft"]) {
      const skip = existsSync(`/usr/sbin/${program}`) ? false : `${program} is not installed`;
      test(`that ${program} manages, and can still read`, { skip }, async () => {
        const iptables = async (...args: string[]): Promise<string> => await runCommand("iptables", [program, ...args]);
        await iptables("-P", "FORWARD", "DROP");
        const before = await iptables("-S");
        {
          await using world = await startOwnWorld();
          const { network, guest } = await world.plug();
          await network.setPolicy({ enabled: true });
          assert.deepEqual(await guest.tcp(site, 5000), { reached: `${site}:5000` });
          const rules = await iptables("-S", "FORWARD");
          assert.match(rules, /-A FORWARD -i osbv\+ .*-j ACCEPT/);
          assert.match(rules, /-A FORWARD -o osbv\+ .*-j ACCEPT/);
        }
        assert.equal(await iptables("-S"), before);
        await iptables("-P", "FORWARD", "ACCEPT");
      });
    }
  });
});

async function startSecond(): Promise<AsyncDisposable> {
  const { NetworkPool } = await import("./network-pool.ts");
  return await NetworkPool.open({ spare: 0, log: (...line) => console.error(...line) });
}

function withoutCounters(rules: readonly string[] | undefined): readonly string[] {
  return (rules ?? []).map((line) => line.replace(/packets \d+ bytes \d+/, ""));
}

/** Checks after each change of rules that the kernel reports, until the condition holds. */
async function untilRules(wanted: (rules: string) => boolean): Promise<void> {
  let changed = Promise.withResolvers<void>();
  using _watch = watchRules(() => {
    changed.resolve();
    changed = Promise.withResolvers<void>();
  });
  for (;;) {
    const next = changed.promise;
    if (wanted((await hostTraces())["rules"]?.join("\n") ?? "")) return;
    await within("a change of the rules that makes the condition hold", next);
  }
}
