import { alternate, type Bench, type Ours, readySize, type Scenario } from "../bench.ts";
import type { Kit } from "../floor/kit.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import type { Sandbox, Spans } from "../ours/client.ts";
import { killed, machinesReady, ranTrue } from "../ours/sandboxes.ts";
import { proveComplete } from "../ours/prove-complete.ts";
import { quantile } from "../statistics/quantile.ts";
import { Stopwatch } from "../stopwatch.ts";

/** A create that takes a ready machine. */
export const createsFromReady: Scenario = {
  figures: ["create-ready", "create-tail"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("ready");
    const kit = await bench.kit();
    const values = { ours: [] as number[], floor: [] as number[] };
    const ours = async (round: number): Promise<void> => {
      const { sandbox, spans, milliseconds } = await createdFromReady({ server, client }, bench, ranTrue);
      await using _ = killed(sandbox);
      await proveComplete(sandbox, server);
      keep("create-ready", "ours", round, milliseconds, spans);
      if (round > 0) values.ours.push(milliseconds);
    };
    const floor = async (round: number): Promise<void> => {
      await using machine = await readyRawMachine(kit, bench);
      await machinesReady(server, readySize, bench.signal);
      const watch = new Stopwatch();
      await machine.resume();
      await machine.agent.ping();
      const milliseconds = watch.elapsed;
      keep("create-ready", "floor", round, milliseconds);
      if (round > 0) values.floor.push(milliseconds);
    };
    await alternate(bench, "create from the ready pool", bench.options.rounds, ours, floor);
    for (const side of ["ours", "floor"] as const) {
      keep("create-tail", side, 1, quantile(values[side], 0.99) / quantile(values[side], 0.5));
    }
  },
};

const attempts = 5;

/** A sandbox on a ready machine, and the time until `first` was done in it. */
export async function createdFromReady(
  { server, client }: Ours,
  bench: Bench,
  first: (sandbox: Sandbox) => Promise<void>,
): Promise<{ readonly sandbox: Sandbox; readonly spans: Spans; readonly milliseconds: number }> {
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    await machinesReady(server, readySize, bench.signal);
    const watch = new Stopwatch();
    const sandbox = await client.create();
    const { spans } = client;
    try {
      watch.lap("create");
      await first(sandbox);
      watch.lap("first command");
    } catch (error) {
      await sandbox.kill();
      throw error;
    }
    const { create = 0, ...after } = watch.laps;
    const reported = Object.values(spans).reduce((sum, span) => sum + span, 0);
    const parts = { ...spans, "around the worker": create - reported, ...after };
    if ("claim" in spans) return { sandbox, spans: parts, milliseconds: watch.elapsed };
    await sandbox.kill();
  }
  throw new Error(`the server had no ready machine for any of ${attempts} creates`);
}

/** A raw machine in the state of a pooled one: it has answered, run a command and been paused. */
export async function readyRawMachine(kit: Kit, bench: Bench): Promise<RawMachine> {
  const [machine] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
  try {
    await machine.agent.run("/bin/sh", "-c", "true");
    await machine.pause();
    return machine;
  } catch (error) {
    await machine[Symbol.asyncDispose]();
    throw error;
  }
}
