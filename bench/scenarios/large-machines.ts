import { execFile } from "node:child_process";
import { stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { alternate, type Bench, type Scenario } from "../bench.ts";
import { installed, killed, ranTrue } from "../ours/sandboxes.ts";
import { Stopwatch } from "../stopwatch.ts";
import { memoryFilesOf, withRest } from "./hibernate-wake.ts";

const memoryMB = 4096;
/** Of the guest's memory, so that its kernel has some left. */
const changedMegabytes = 3000;

/** Twice the memory, the snapshot in the host's cache, and room for others, in MiB. */
const neededMib = 12_000;

/** Each round moves several gigabytes. */
const maxRounds = 3;

/** A large machine whose memory has changed, which hibernates and wakes. The floor moves as many bytes in a plain program. */
export const largeMachines: Scenario = {
  figures: ["hibernate-4g", "wake-4g"],
  whyNot(bench) {
    if (bench.options.quick) return "--quick measures no large machine";
    const free = bench.freeMemoryMib();
    return free < neededMib ? `it needs ${neededMib} MiB of free memory, and the host has ${free}` : undefined;
  },
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const sandbox = await client.create({ memoryMB });
    await using _ = killed(sandbox);
    const program = await installed(sandbox, "fill", bench.natives.fill);
    const filled = Promise.withResolvers<void>();
    const session = await sandbox.exec.start(program, {
      args: [`${changedMegabytes}`],
      onStdout: () => filled.resolve(),
    });
    session.done.then(() => filled.reject(new Error("the program that fills memory has ended")), filled.reject);
    await filled.promise;
    let bytes = changedMegabytes * 1e6;
    const file = join(server.dataDirectory, "bench-floor");
    const ours = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      await sandbox.hibernate();
      keep("hibernate-4g", "ours", round, watch.elapsed);
      bytes = await bytesOfLargest(await memoryFilesOf(server));
      const waking = new Stopwatch();
      await sandbox.wake();
      const milliseconds = waking.elapsed;
      keep("wake-4g", "ours", round, milliseconds, withRest(milliseconds, client.spans));
      await ranTrue(sandbox);
    };
    const floor = async (round: number): Promise<void> => {
      keep("hibernate-4g", "floor", round, await moved(bench, "write", file, `${bytes}`));
      keep("wake-4g", "floor", round, await moved(bench, "read", file));
      await unlink(file);
    };
    const rounds = Math.min(maxRounds, bench.options.rounds);
    await alternate(bench, `hibernate and wake, ${memoryMB} MB`, rounds, ours, floor);
    const delta = `${(bytes / 1e6).toFixed(0)} MB of memory`;
    for (const name of largeMachines.figures) bench.note(name, delta);
  },
};

async function bytesOfLargest(files: readonly string[]): Promise<number> {
  return Math.max(...(await Promise.all(files.map(async (file) => (await stat(file)).size))));
}

const moveTimeoutMs = 600_000;

async function moved({ natives, signal }: Bench, ...how: readonly string[]): Promise<number> {
  const { stdout } = await promisify(execFile)(natives.disk, how, { signal, timeout: moveTimeoutMs });
  return Number(stdout) / 1000;
}
