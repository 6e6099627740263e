import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { alternate, type Scenario } from "../bench.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import { killed, ran } from "../ours/sandboxes.ts";
import { proveComplete } from "../ours/prove-complete.ts";
import type { OurServer } from "../ours/server.ts";
import { Stopwatch } from "../stopwatch.ts";

/** Changes 16 MB of a guest's memory for good. */
export const changeMemory = "head -c 16M /dev/urandom > /dev/shm/changed";

/** A sandbox that hibernates and wakes repeatedly. */
export const hibernateAndWake: Scenario = {
  figures: ["hibernate", "hibernate-size", "wake"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const kit = await bench.kit();
    const sandbox = await client.create();
    await using _ = killed(sandbox);
    await ran(sandbox, changeMemory);
    let [machine] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
    await using ends = new AsyncDisposableStack();
    ends.defer(() => machine[Symbol.asyncDispose]());
    await machine.agent.run("/bin/sh", "-c", changeMemory);

    const ours = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      await sandbox.hibernate();
      keep("hibernate", "ours", round, watch.elapsed);
      keep("hibernate-size", "ours", round, (await bytesOf(await memoryFilesOf(server))) / 1e6);
      const waking = new Stopwatch();
      await sandbox.wake();
      const milliseconds = waking.elapsed;
      keep("wake", "ours", round, milliseconds, withRest(milliseconds, client.spans));
      await proveComplete(sandbox, server);
    };
    const floor = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const [snapshot, parts] = await machine.hibernate(bench.newPath(), bench.mover);
      keep("hibernate", "floor", round, watch.elapsed, parts);
      keep("hibernate-size", "floor", round, (await bytesOf([snapshot.devices, snapshot.delta])) / 1e6);
      const waking = new Stopwatch();
      const [woken, wakeParts] = await RawMachine.restored(kit, bench.newPath(), bench.mover, snapshot);
      keep("wake", "floor", round, waking.elapsed, wakeParts);
      machine = woken;
    };
    await alternate(bench, "hibernate and wake", bench.options.rounds, ours, floor);
  },
};

/** The spans of a start, and the remaining time. */
export function withRest(
  milliseconds: number,
  spans: Readonly<Record<string, number>>,
): Readonly<Record<string, number>> {
  const reported = Object.values(spans).reduce((sum, span) => sum + span, 0);
  return { ...spans, "around the worker": milliseconds - reported };
}

/** Memory and device state of a server's snapshots, which are those of the one hibernated sandbox. */
export async function memoryFilesOf({ dataDirectory }: OurServer): Promise<readonly string[]> {
  const directory = join(dataDirectory, "snapshots");
  const files: string[] = [];
  for (const snapshot of (await readdir(directory)).filter((name) => !name.startsWith("."))) {
    const names = await readdir(join(directory, snapshot));
    files.push(
      ...names
        .filter((name) => /^(memory\.delta|devices-\d+)$/.test(name))
        .map((name) => join(directory, snapshot, name)),
    );
  }
  return files;
}

async function bytesOf(files: readonly string[]): Promise<number> {
  const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
