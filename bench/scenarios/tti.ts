import { setTimeout as sleep } from "node:timers/promises";
import { alternate, type Bench, readySize, type Scenario } from "../bench.ts";
import { type ComputeSandbox, computeOf } from "../ours/compute-provider.ts";
import { machinesReady } from "../ours/sandboxes.ts";
import { proveComplete } from "../ours/prove-complete.ts";
import { Stopwatch } from "../stopwatch.ts";
import { readyRawMachine } from "./creates-ready.ts";
import { burstSize } from "./creates.ts";

/** The command of the public benchmark (computesdk/benchmarks, METHODOLOGY.md). */
const firstCommand = "node -v";
/** Delay between two launches of the benchmark's staggered mode. */
const staggerMs = 200;

/** Time to interactive, as ComputeSDK's public benchmark measures it: create by its SDK, then the first command. */
export const timeToInteractive: Scenario = {
  figures: ["tti-sequential", "tti-staggered", "tti-burst"],
  whyNot: ({ options }) =>
    options.image === "minimal" ? "its first command is `node -v`, and the image minimal has no node" : undefined,
  async run(bench, keep) {
    const { server, client } = await bench.ours("ready");
    const compute = computeOf(client);
    const kit = await bench.kit();
    const ours = async (round: number): Promise<void> => {
      await machinesReady(server, readySize, bench.signal);
      const { sandbox, milliseconds } = await interactive(compute);
      keep("tti-sequential", "ours", round, milliseconds);
      await proved(sandbox);
    };
    const floor = async (round: number): Promise<void> => {
      await using machine = await readyRawMachine(kit, bench);
      await machinesReady(server, readySize, bench.signal);
      const watch = new Stopwatch();
      await machine.resume();
      await machine.agent.run("/bin/sh", "-c", firstCommand);
      keep("tti-sequential", "floor", round, watch.elapsed);
    };
    await alternate(bench, "TTI, one after another", bench.options.rounds, ours, floor);

    const size = burstSize(bench);
    for (const [name, delay] of [
      ["tti-staggered", staggerMs],
      ["tti-burst", 0],
    ] as const) {
      bench.report(`${name}: ${size} sandboxes`);
      bench.note(name, `${size} sandboxes${delay === 0 ? "" : `, one every ${delay} ms`}`);
      await machinesReady(server, readySize, bench.signal);
      for (const { sandbox, milliseconds } of await launched(bench, compute, size, delay)) {
        keep(name, "ours", 1, milliseconds);
        await proved(sandbox);
      }
    }

    async function proved(sandbox: ComputeSandbox): Promise<void> {
      try {
        await proveComplete(sandbox.getInstance(), server);
      } finally {
        await sandbox.destroy();
      }
    }
  },
};

interface Interactive {
  readonly sandbox: ComputeSandbox;
  readonly milliseconds: number;
}

async function interactive(compute: ReturnType<typeof computeOf>): Promise<Interactive> {
  const watch = new Stopwatch();
  const sandbox = await compute.create();
  const { exitCode, stdout } = await sandbox.runCommand(firstCommand);
  const milliseconds = watch.elapsed;
  if (exitCode === 0 && stdout.startsWith("v")) return { sandbox, milliseconds };
  await sandbox.destroy();
  throw new Error(`${firstCommand} gives ${exitCode} and "${stdout}"`);
}

/** All of them, each measured from its own launch. @throws when one fails, after the others are destroyed */
async function launched(
  bench: Bench,
  compute: ReturnType<typeof computeOf>,
  size: number,
  delay: number,
): Promise<readonly Interactive[]> {
  const started = await Promise.allSettled(
    Array.from({ length: size }, async (_, index) => {
      await sleep(index * delay, undefined, { signal: bench.signal });
      return await interactive(compute);
    }),
  );
  const failed = started.find(({ status }) => status === "rejected");
  const running = started.flatMap((start) => (start.status === "fulfilled" ? [start.value] : []));
  if (failed?.status !== "rejected") return running;
  for (const { sandbox } of running) await sandbox.destroy();
  throw failed.reason;
}
