import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite, test, type TestContext } from "node:test";
import { failOn, runCommand } from "#host/run-command.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";

import { removeLeftOverNetworks } from "./host-firewall.ts";
import { NetworkPool } from "./network-pool.ts";
import { hostTraces } from "./testing/host-traces.ts";
import { startInternet, worldAddresses } from "./testing/internet.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { plugGuest } from "./testing/plugged-guest.ts";

/** Every command that makes a network, and what opens the host. */
const steps = [
  "set the host's rules",
  "add network namespace",
  "set up network namespace",
  "set the queues of a namespace",
  "set the rules of a namespace",
] as const;

inOwnHost(import.meta.filename, () => {
  suite("a pool of networks", () => {
    test("leaves the host as it was, after any number of machines, with as many rules for one as for all", async (t) => {
      const before = await hostTraces();
      {
        await using pool = await openPool({ spare: 2 });
        const directory = await machineDirectory(t);
        const one = await pool.claim(directory);
        const rulesForOne = await ruleCount();
        const others = await Promise.all(Array.from({ length: 199 }, () => pool.claim(directory)));
        assert.equal(new Set([one, ...others].map(({ slot }) => slot)).size, 200);
        assert.equal(await ruleCount(), rulesForOne);
        assert.deepEqual(
          await ruleCount(one.attachment.namespace),
          await ruleCount(others.at(-1)?.attachment.namespace),
        );
        await Promise.all([one, ...others].map((network) => network[Symbol.asyncDispose]()));
      }
      assert.deepEqual(await hostTraces(), before);
    });

    test("claiming a prepared network starts no program", async (t) => {
      await using pool = await openPool({ spare: 1 });
      const directory = await machineDirectory(t);
      {
        // The first one may still be in the making.
        await using _first = await pool.claim(directory);
      }
      await pool.settled();
      using _none = forbidPrograms();
      const network = await pool.claim(directory);
      await network.setPolicy({ enabled: true });
      assert.deepEqual(network.policy, { enabled: true });
      _none[Symbol.dispose]();
      await network[Symbol.asyncDispose]();
    });

    for (const step of steps.slice(1)) {
      test(`one that cannot be made leaves nothing: ${step}`, async (t) => {
        const before = await hostTraces();
        {
          await using pool = await openPool({ spare: 0 });
          const directory = await machineDirectory(t);
          {
            using _failing = failOn(step);
            await assert.rejects(pool.claim(directory), (error) => isSandboxError(error, "unavailable"));
          }
          // And the next one can be.
          await using _network = await pool.claim(directory);
        }
        assert.deepEqual(await hostTraces(), before);
      });
    }

    test("a host whose rules cannot be set is none to begin on", async () => {
      const before = await hostTraces();
      using _failing = failOn("set the host's rules");
      await assert.rejects(openPool({ spare: 1 }), (error) => isSandboxError(error, "unavailable"));
      assert.deepEqual(await hostTraces(), before);
    });
  });

  suite("a process that is killed", () => {
    for (const step of steps) {
      test(`at "${step}": the next one finds what it left and removes it`, async (t) => {
        const before = await hostTraces();
        const directory = await machineDirectory(t);
        const process = await startPool(["--stop-at", step, directory], `at ${step}`);
        await kill(process);
        await removeLeftOverNetworks();
        assert.deepEqual(await hostTraces(), before);
      });
    }

    test("with prepared networks and a machine whose directory is gone", async () => {
      const before = await hostTraces();
      const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
      const process = await startPool(["--spare", "2", directory], "ready");
      await kill(process);
      await rm(directory, { recursive: true });
      await removeLeftOverNetworks();
      assert.deepEqual(await hostTraces(), before);
    });

    test("while it is removing: the rest goes with the next", async (t) => {
      const before = await hostTraces();
      const directory = await machineDirectory(t);
      const process = await startPool(["--stop-at", "remove network namespaces", "--spare", "1", directory], "ready");
      process.kill("SIGTERM");
      await kill(process);
      await rm(directory, { recursive: true });
      await removeLeftOverNetworks();
      assert.deepEqual(await hostTraces(), before);
    });

    test("leaves the networks of its machines running, and the next one takes them over", async (t) => {
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
      network.release();
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

/** Rules of every table, of the host or of a namespace. */
async function ruleCount(namespace?: string): Promise<number> {
  const listed = await runCommand("list rules", ["nft", "-j", "list", "ruleset"], {
    ...(namespace === undefined ? {} : { namespace }),
  });
  const { nftables } = JSON.parse(listed) as { nftables: readonly object[] };
  return nftables.filter((item) => "rule" in item).length;
}

/** Whatever is made or removed from now on fails. */
function forbidPrograms(): Disposable {
  const stack = new DisposableStack();
  const fail = (): never => {
    throw new Error("a program was started");
  };
  for (const label of [...steps, "remove network namespaces", "list firewall chains"]) stack.use(failOn(label, fail));
  return stack;
}

const claimedSlot = new WeakMap<ChildProcess, string>();

/** Starts a pool in another process and waits until it says `line`. */
async function startPool(args: readonly string[], line: string): Promise<ChildProcess> {
  const child = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", join(import.meta.dirname, "testing/pool-process.ts"), ...args],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  for await (const said of createInterface({ input: child.stdout })) {
    if (said.startsWith("claimed ")) claimedSlot.set(child, said.slice("claimed ".length));
    if (said.startsWith(line)) return child;
  }
  throw new Error(`the process ended without saying "${line}"`);
}

async function kill(process: ChildProcess): Promise<void> {
  process.kill("SIGKILL");
  if (process.exitCode === null && process.signalCode === null) await once(process, "exit");
}
