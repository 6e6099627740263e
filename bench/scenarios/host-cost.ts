import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alternate, type Keep, type Scenario, type Side } from "../bench.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import type { Sandbox } from "../ours/client.ts";
import { killed, ran, ranTrue } from "../ours/sandboxes.ts";
import { machineOf } from "../ours/server.ts";
import { idle } from "./many-sandboxes.ts";

/** Delay before an idle machine is measured: its first seconds are not idle. */
const settleMs = 5000;
const watchMs = { quick: 3000, full: 10_000 };
const machineRounds = 3;

/** Keeps a machine busy: it writes memory and runs programs. */
const busy = "head -c 64M /dev/urandom > /dev/shm/busy; for i in 1 2 3 4 5; do python3 -c 'import json, ssl'; done";

/** Memory, processor and disk of one machine. Both sides run at the same time, so that they share pages alike. */
export const oneMachine: Scenario = {
  figures: ["memory-idle", "memory-beyond", "memory-private", "memory-busy", "disk-sandbox", "cpu-guest-idle"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const kit = await bench.kit();
    const watch = bench.options.quick ? watchMs.quick : watchMs.full;
    for (let round = 1; round <= Math.min(machineRounds, bench.options.rounds); round += 1) {
      bench.report(`what a machine costs: round ${round}`);
      const sandbox = await client.create();
      await using _ = killed(sandbox);
      const [machine] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
      await using _machine = machine;
      await ranTrue(sandbox);
      await machine.agent.run("/bin/sh", "-c", "true");
      await sleep(settleMs, undefined, { signal: bench.signal });
      const both = [
        ["ours", await machineOf(server, sandbox.sandboxId)],
        ["floor", { directory: machine.directory, pid: machine.pid }],
      ] as const;
      const before = await Promise.all(both.map(([, { pid }]) => processorSeconds(pid)));
      await sleep(watch, undefined, { signal: bench.signal });
      for (const [index, [side, { directory, pid }]] of both.entries()) {
        const seconds = (await processorSeconds(pid)) - before[index]!;
        keep("cpu-guest-idle", side, round, (100_000 * seconds) / watch);
        keepIdleMemory(keep, side, round, await memoryOf(pid));
        keep("disk-sandbox", side, round, (await ownBytes(directory)) / 1e6);
      }
      await Promise.all([ran(sandbox, busy), machine.agent.run("/bin/sh", "-c", busy)]);
      for (const [side, { pid }] of both) keep("memory-busy", side, round, (await memoryOf(pid)).pss / 1e6);
    }
  },
};

function keepIdleMemory(keep: Keep, side: Side, round: number, { pss, privateDirty, guestDirty }: ProcessMemory): void {
  keep("memory-idle", side, round, pss / 1e6);
  keep("memory-private", side, round, privateDirty / 1e6);
  keep("memory-beyond", side, round, (pss - guestDirty) / 1e6);
}

interface ProcessMemory {
  readonly pss: number;
  readonly privateDirty: number;
  /** Private pages of the guest's memory. */
  readonly guestDirty: number;
}

/** In bytes: proc_pid_smaps(5). */
async function memoryOf(pid: number): Promise<ProcessMemory> {
  const whole = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  const mappings = (await readFile(`/proc/${pid}/smaps`, "utf8")).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const guest = mappings.filter((mapping) => /\/memory\.\w+\n/.test(mapping.slice(0, mapping.indexOf("\n") + 1)));
  return {
    pss: sum(whole, "Pss"),
    privateDirty: sum(whole, "Private_Dirty"),
    guestDirty: guest.reduce((bytes, mapping) => bytes + sum(mapping, "Private_Dirty"), 0),
  };
}

function sum(smaps: string, field: string): number {
  const found = smaps.matchAll(new RegExp(`^${field}:\\s+(\\d+) kB`, "gm"));
  return [...found].reduce((bytes, [, kilobytes]) => bytes + Number(kilobytes) * 1024, 0);
}

/** USER_HZ, which is 100 on every Linux of this architecture. */
const ticksPerSecond = 100;

async function processorSeconds(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** The disk space of files that are not shared. */
async function ownBytes(directory: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(directory)) {
    const { nlink, blocks } = await stat(join(directory, name));
    if (nlink === 1) bytes += blocks * 512;
  }
  return bytes;
}

const runningSandboxes = { quick: 3, full: 10 };

/** A server with idle sandboxes, and then with some busy ones. */
export const serverWithMachines: Scenario = {
  figures: ["cpu-idle-10", "loop-delay"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const size = bench.options.quick ? runningSandboxes.quick : runningSandboxes.full;
    bench.note("cpu-idle-10", `${size} sandboxes`);
    await using ends = new AsyncDisposableStack();
    const sandboxes: Sandbox[] = [];
    for (let index = 0; index < size; index += 1) {
      bench.signal.throwIfAborted();
      bench.report(`sandbox ${index + 1} of ${size} for an idle server`);
      const sandbox = await client.create();
      ends.use(killed(sandbox));
      await ranTrue(sandbox);
      sandboxes.push(sandbox);
    }
    keep("cpu-idle-10", "ours", 1, (await idle(bench, server)).cpuPercent);

    const rounds = Math.min(machineRounds, bench.options.rounds);
    await alternate(
      bench,
      "the server under load",
      rounds,
      async (round) => {
        await server.probe("loop");
        const content = Buffer.alloc(1e6);
        await Promise.all(
          sandboxes.map(async (sandbox) => {
            for (let call = 0; call < 5; call += 1) await ranTrue(sandbox);
            await sandbox.files.write("/home/sandbox/load", content);
            await sandbox.files.readBytes("/home/sandbox/load");
          }),
        );
        keep("loop-delay", "ours", round, (await server.probe()).loopP99Ms);
      },
      async () => undefined,
    );
  },
};
