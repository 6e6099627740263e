import type { Bench, Keep, Scenario } from "../bench.ts";
import { alternate } from "../bench.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import { killed, ranTrue } from "../ours/sandboxes.ts";
import { proveComplete } from "../ours/prove-complete.ts";
import { Stopwatch } from "../stopwatch.ts";

/** A create without a ready machine, its first command, and its deletion. */
export const createsByRestore: Scenario = {
  figures: ["create-restore", "create-restore-first", "first-command", "delete"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const kit = await bench.kit();
    const ours = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const sandbox = await client.create();
      watch.lap("create");
      const { spans } = client;
      await using end = killed(sandbox);
      await ranTrue(sandbox);
      watch.lap("first");
      await proveComplete(sandbox, server);
      keepStart(keep, "ours", round, watch, spans);
      const ending = new Stopwatch();
      await end.now();
      keep("delete", "ours", round, ending.elapsed);
    };
    const floor = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const [machine, parts] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
      watch.lap("create");
      await using _ = machine;
      await machine.agent.run("/bin/sh", "-c", "true");
      watch.lap("first");
      keepStart(keep, "floor", round, watch, parts);
      const ending = new Stopwatch();
      await machine[Symbol.asyncDispose]();
      keep("delete", "floor", round, ending.elapsed);
    };
    await alternate(bench, "create by memory restore", bench.options.rounds, ours, floor);
  },
};

function keepStart(
  keep: Keep,
  side: "ours" | "floor",
  round: number,
  { laps: { create = 0, first = 0 } }: Stopwatch,
  parts: Readonly<Record<string, number>>,
): void {
  const reported = Object.values(parts).reduce((sum, part) => sum + part, 0);
  keep("create-restore", side, round, create, { ...parts, "around it": create - reported });
  keep("first-command", side, round, first);
  keep("create-restore-first", side, round, create + first, { ...parts, "first command": first });
}

/** The floor of another design: a process spawned in advance, which waits for its memory. */
export const restoresAhead: Scenario = {
  figures: ["restore-ahead"],
  async run(bench, keep) {
    const kit = await bench.kit();
    for (let round = 0; round <= bench.options.rounds; round += 1) {
      bench.report(`raw restore, spawned ahead: round ${round} of ${bench.options.rounds}`);
      await using machine = await RawMachine.prepare(kit, bench.newPath());
      const watch = new Stopwatch();
      const parts = await machine.restore(bench.mover);
      keep("restore-ahead", "floor", round, watch.elapsed, parts);
    }
  },
};

/** A burst has fewer rounds, because it takes as long as all its machines. */
const burstRounds = 3;
const burstSizes = { quick: 6, full: 20 };

export const createsAtOnce: Scenario = {
  figures: ["burst"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const kit = await bench.kit();
    const size = burstSize(bench);
    bench.note("burst", `${size} at once`);
    const all = Array.from({ length: size });
    const ours = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const started = await Promise.allSettled(all.map(() => client.create()));
      watch.lap("creates");
      await using ends = new AsyncDisposableStack();
      for (const start of started) if (start.status === "fulfilled") ends.use(killed(start.value));
      for (const start of started) {
        if (start.status === "rejected") throw start.reason;
        await proveComplete(start.value, server);
      }
      keep("burst", "ours", round, watch.laps["creates"]!);
    };
    const floor = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const started = await Promise.allSettled(all.map(() => RawMachine.restored(kit, bench.newPath(), bench.mover)));
      watch.lap("restores");
      await using ends = new AsyncDisposableStack();
      for (const start of started) if (start.status === "fulfilled") ends.use(start.value[0]);
      for (const start of started) if (start.status === "rejected") throw start.reason;
      keep("burst", "floor", round, watch.laps["restores"]!);
    };
    await alternate(bench, `${size} creates at once`, Math.min(burstRounds, bench.options.rounds), ours, floor);
  },
};

const hundred = 100;

/** A hundred creates at once, each measured from its call. The last one shows how fair the server's queue is. */
export const hundredAtOnce: Scenario = {
  figures: ["burst-100"],
  whyNot(bench) {
    if (bench.options.quick) return "--quick starts fewer at once";
    const fitting = fittingMachines(bench);
    return fitting < hundred ? `the host's free memory has room for ${fitting} machines` : undefined;
  },
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    bench.report(`${hundred} creates at once`);
    const started = await Promise.allSettled(
      Array.from({ length: hundred }, async () => {
        const watch = new Stopwatch();
        return { sandbox: await client.create(), milliseconds: watch.elapsed };
      }),
    );
    await using ends = new AsyncDisposableStack();
    for (const start of started) if (start.status === "fulfilled") ends.use(killed(start.value.sandbox));
    for (const start of started) {
      if (start.status === "rejected") throw start.reason;
      keep("burst-100", "ours", 1, start.value.milliseconds);
      await proveComplete(start.value.sandbox, server);
    }
  },
};

/** The number of simultaneous machines that the run and the host's memory allow. */
export function burstSize(bench: Bench): number {
  return Math.max(2, Math.min(bench.options.quick ? burstSizes.quick : burstSizes.full, fittingMachines(bench)));
}

function fittingMachines(bench: Bench): number {
  // An emulated machine uses about 200 MB, and admission requires half of its memory and a reserve to be free.
  return Math.floor((bench.freeMemoryMib() - 2048) / 256);
}
