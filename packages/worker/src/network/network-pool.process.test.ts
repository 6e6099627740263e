import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite, test, type TestContext } from "node:test";
import { failOn, runCommand } from "#host/run-command.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { eventOf, within } from "@opensandbox/wire/testing/eventually.ts";

import { slotNames } from "./address-plan.ts";
import { removeLeftOverNetworks } from "./host-firewall.ts";
import { hostCommands } from "./link-commands.ts";
import { NetworkPool } from "./network-pool.ts";
import type { SandboxNetwork } from "./sandbox-network.ts";
import { guestMac } from "./testing/frames.ts";
import { hostTraces } from "./testing/host-traces.ts";
import { startInternet, worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { nft } from "./testing/own-world.ts";
import { plugGuest } from "./testing/plugged-guest.ts";

/** Every command that makes a network, and the one that opens the host. */
const steps = [
  "set the host's rules",
  "add network namespace",
  "set up network namespace",
  "set the queues of a namespace",
  "set the rules of a namespace",
] as const;

inOwnHost(import.meta.filename, () => {
  suite("a pool of networks", () => {
    test("leaves no trace on the host, and neither rules nor work grow with the number of machines", async (t) => {
      const before = await hostTraces();
      {
        await using pool = await openPool({ spare: 0 });
        const directory = await machineDirectory(t);
        using made = countPrograms(steps.slice(1));
        const networks: SandboxNetwork[] = [];
        /** Makes fifty more and returns the cost. */
        const claimFifty = async (): Promise<number> => {
          const since = cpuMilliseconds();
          networks.push(...(await Promise.all(Array.from({ length: 50 }, () => pool.claim(directory)))));
          return cpuMilliseconds() - since;
        };
        const removeFifty = async (): Promise<number> => {
          const since = cpuMilliseconds();
          await Promise.all(networks.splice(-50).map((network) => network[Symbol.asyncDispose]()));
          await pool.settled();
          return cpuMilliseconds() - since;
        };
        const first = await claimFifty();
        const rulesForFifty = await ruleCount();
        const [one] = networks;
        await claimFifty();
        await claimFifty();
        const last = await claimFifty();
        assert.equal(new Set(networks.map(({ slot }) => slot)).size, 200);
        assert.equal(await ruleCount(), rulesForFifty);
        assert.equal(
          await ruleCount(one?.attachment.namespace),
          await ruleCount(networks.at(-1)?.attachment.namespace),
        );
        assert.deepEqual(made.counts(), [200, 200, 200, 200]);
        assert.ok(last < 3 * first, `fifty of 200 took ${last} ms of processor time, the first fifty ${first} ms`);

        const removed = [await removeFifty(), await removeFifty(), await removeFifty(), await removeFifty()];
        const [removedFirst = 0, , , removedLast = 0] = removed;
        assert.ok(removedFirst < 3 * Math.max(removedLast, 50), `${removed.join(", ")} ms to remove fifty each`);
        const traces = await hostTraces();
        for (const kind of ["namespaces", "links", "slots"]) assert.deepEqual(traces[kind], before[kind], kind);
        assert.equal(await ruleCount(), rulesForFifty);
        console.error(
          `XX fifty: made in ${first} and ${last} ms of processor time, removed in ${removed.join(", ")} ms`,
        );
      }
      assert.deepEqual(await hostTraces(), before);
    });

    test("claiming a prepared network starts no program", async (t) => {
      await using pool = await openPool({ spare: 1 });
      const directory = await machineDirectory(t);
      {
        // The first network may still be in preparation.
        await using _first = await pool.claim(directory);
      }
      await pool.settled();
      using _none = forbidPrograms();
      const network = await pool.claim(directory);
      network.admit(guestMac);
      await network.setPolicy({ enabled: true });
      assert.deepEqual(network.policy, { enabled: true });
      _none[Symbol.dispose]();
      await network[Symbol.asyncDispose]();
    });

    for (const step of steps.slice(1)) {
      test(`a network that fails at "${step}" leaves nothing`, async (t) => {
        const before = await hostTraces();
        {
          await using pool = await openPool({ spare: 0 });
          const directory = await machineDirectory(t);
          {
            using _failing = failOn(step);
            await assert.rejects(pool.claim(directory), (error) => isSandboxError(error, "unavailable"));
          }
          // The next attempt succeeds.
          await using _network = await pool.claim(directory);
        }
        assert.deepEqual(await hostTraces(), before);
      });
    }

    test("does not open on a host whose rules cannot be set", async () => {
      const before = await hostTraces();
      using _failing = failOn("set the host's rules");
      await assert.rejects(openPool({ spare: 1 }), (error) => isSandboxError(error, "unavailable"));
      assert.deepEqual(await hostTraces(), before);
    });
  });

  suite("a process that is killed", () => {
    for (const step of [...steps, "list firewall chains"]) {
      test(`at "${step}": the next one removes what it left`, async (t) => {
        const before = await hostTraces();
        const directory = await machineDirectory(t);
        const process = await startPool(["--stop-at", step, directory], `at ${step}`);
        await kill(process);
        await removeLeftOverNetworks();
        assert.deepEqual(await hostTraces(), before);
      });
    }

    // `ip` makes a namespace in steps, too; the contents disappear with it.
    for (const [done, last] of hostCommandsOf(0).entries()) {
      test(`in the middle of adding a namespace, after "${last}"`, async (t) => {
        const before = await hostTraces();
        const directory = await machineDirectory(t);
        const process = await startPool(["--stop-at", "add network namespace", directory], "at add network namespace");
        const [slot = assert.fail("no slot is taken")] = (await hostTraces())["slots"] ?? [];
        const input = hostCommandsOf(Number(slot)).slice(0, done + 1);
        await runCommand("half of it", ["ip", "-batch", "-"], { input: input.map((line) => `${line}\n`).join("") });
        await kill(process);
        await removeLeftOverNetworks();
        assert.deepEqual(await hostTraces(), before);
      });
    }

    for (const step of ["list firewall chains", "remove the host's rules"]) {
      test(`at "${step}", while it shuts down: the next one completes that`, async () => {
        const before = await hostTraces();
        const process = await startPool(["--then-stop-at", step], "ready");
        process.kill("SIGTERM");
        await untilSaid(process, `at ${step}`);
        await kill(process);
        await removeLeftOverNetworks();
        assert.deepEqual(await hostTraces(), before);
      });
    }

    for (const [step, when] of [
      ["admit forwarding", "--stop-at"],
      ["withdraw forwarding", "--then-stop-at"],
    ] as const) {
      test(`at "${step}", on a host whose firewall drops forwarded packets`, async () => {
        await nft("table inet filter { chain forward { type filter hook forward priority filter; policy drop; }; }");
        const before = await hostTraces();
        const process = await startPool([when, step], when === "--stop-at" ? `at ${step}` : "ready");
        if (when === "--then-stop-at") {
          process.kill("SIGTERM");
          await untilSaid(process, `at ${step}`);
        }
        await kill(process);
        await removeLeftOverNetworks();
        assert.deepEqual(await hostTraces(), before);
        await nft("delete table inet filter");
      });
    }

    test("with prepared networks, and one of a machine whose directory is gone: the next one removes all", async () => {
      const before = await hostTraces();
      const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
      const process = await startPool(["--spare", "2", directory], "ready");
      await kill(process);
      await rm(directory, { recursive: true });
      await removeLeftOverNetworks();
      assert.deepEqual(await hostTraces(), before);
    });

    test("while it removes networks: the next one removes the rest", async (t) => {
      const before = await hostTraces();
      const directory = await machineDirectory(t);
      const process = await startPool(["--stop-at", "remove network namespaces", "--spare", "1", directory], "ready");
      process.kill("SIGTERM");
      await untilSaid(process, "at remove network namespaces");
      await kill(process);
      await rm(directory, { recursive: true });
      await removeLeftOverNetworks();
      assert.deepEqual(await hostTraces(), before);
    });

    test("leaves the networks of its machines running, and the next one adopts them", async (t) => {
      await using internet = await startInternet();
      const before = await hostTraces();
      const directory = await machineDirectory(t);
      const process = await startPool([directory], "claimed");
      const slot = Number(claimedSlot.get(process));
      await kill(process);
      await removeLeftOverNetworks();

      await using pool = await openPool({ spare: 0 });
      await assert.rejects(pool.adopt("/nonexistent", slot), (error) => isSandboxError(error, "not_found"));
      const network = await pool.adopt(directory, slot);
      assert.deepEqual(network.policy, { enabled: true, egress: { allow: ["203.0.113.10"] } });
      {
        await using guest = await plugGuest(network);
        assert.deepEqual(await guest.tcp(worldAddresses.site, 5000), { reached: `${worldAddresses.site}:5000` });
        assert.deepEqual(await guest.tcp(worldAddresses.otherSite, 5000), { refused: "ECONNREFUSED" });
        await network.setPolicy({ enabled: false });
        assert.deepEqual(await guest.tcp(worldAddresses.site, 5000), { refused: "ECONNREFUSED" });
      }
      await network.release();
      const again = await pool.adopt(directory, slot);
      assert.deepEqual(again.policy, { enabled: false });
      await again[Symbol.asyncDispose]();
      await pool[Symbol.asyncDispose]();
      assert.deepEqual(await hostTraces(), before);
      assert.equal(internet.arrivals.length, 1);
    });
  });
});

async function openPool({ spare }: { readonly spare: number }): Promise<NetworkPool> {
  return await NetworkPool.open({ spare, log: (...line) => console.error(...line) });
}

async function machineDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

function hostCommandsOf(slot: number): string[] {
  return hostCommands([slotNames(slot)])
    .trim()
    .split("\n");
}

/** Rules of every table, of the host or of a namespace. */
async function ruleCount(namespace?: string): Promise<number> {
  const listed = await runCommand("list rules", ["nft", "-j", "list", "ruleset"], {
    ...(namespace === undefined ? {} : { namespace }),
  });
  const { nftables } = JSON.parse(listed) as { nftables: readonly object[] };
  return nftables.filter((item) => "rule" in item).length;
}

/** Processor time of this process and of the programs that it has waited for. */
function cpuMilliseconds(): number {
  const stat = readFileSync("/proc/self/stat", "latin1");
  // utime, stime, cutime and cstime in hundredths of a second, after a name that may contain any character.
  const times = stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .slice(11, 15);
  return times.reduce((sum, ticks) => sum + Number(ticks) * 10, 0);
}

/** Counts the runs of each of these commands from now on. */
function countPrograms(labels: readonly string[]): Disposable & { counts(): number[] } {
  const stack = new DisposableStack();
  const counts = new Map(labels.map((label) => [label, 0]));
  for (const label of labels) stack.use(failOn(label, () => counts.set(label, (counts.get(label) ?? 0) + 1)));
  return { counts: () => [...counts.values()], [Symbol.dispose]: () => stack.dispose() };
}

/** Makes every command that adds or removes something fail from now on. */
function forbidPrograms(): Disposable {
  const stack = new DisposableStack();
  const fail = (): never => {
    throw new Error("a program was started");
  };
  for (const label of [...steps, "remove network namespaces", "list firewall chains"]) stack.use(failOn(label, fail));
  return stack;
}

const claimedSlot = new WeakMap<ChildProcess, string>();

/** Starts a pool in another process and waits until it prints `line`. */
async function startPool(args: readonly string[], line: string): Promise<ChildProcess> {
  const child = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", join(import.meta.dirname, "testing/pool-process.ts"), ...args],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  linesOf.set(child, createInterface({ input: child.stdout })[Symbol.asyncIterator]());
  await untilSaid(child, line);
  return child;
}

const linesOf = new WeakMap<ChildProcess, AsyncIterator<string>>();

async function untilSaid(child: ChildProcess, line: string): Promise<void> {
  const lines = linesOf.get(child) ?? assert.fail("the process has no line reader");
  for (;;) {
    const { done, value: said } = await within(`the process says "${line}"`, lines.next());
    if (done === true) throw new Error(`the process ended without saying "${line}"`);
    if (said.startsWith("claimed ")) claimedSlot.set(child, said.slice("claimed ".length));
    if (said.startsWith(line)) return;
  }
}

async function kill(process: ChildProcess): Promise<void> {
  process.kill("SIGKILL");
  if (process.exitCode === null && process.signalCode === null) await eventOf(process, "exit");
}
