import { readFile } from "node:fs/promises";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { alternate, type Bench, type Scenario } from "../bench.ts";
import type { FigureName } from "../figures.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import { Gaps } from "../gaps.ts";
import type { Client, Sandbox } from "../ours/client.ts";
import { proveComplete } from "../ours/prove-complete.ts";
import { installed, killed, ran, ranTrue } from "../ours/sandboxes.ts";
import { Stopwatch } from "../stopwatch.ts";
import { changeMemory, withRest } from "./hibernate-wake.ts";

export const checkpointPauses: readonly Scenario[] = [
  checkpointPause("checkpoint-pause"),
  { ...checkpointPause("checkpoint-pause-512m", 512), whyNot: whyNotQuick },
  { ...checkpointPause("checkpoint-pause-4g", 4096), whyNot: whyNotQuick },
];

function whyNotQuick({ options }: Bench): string | undefined {
  return options.quick ? "--quick measures one size only" : undefined;
}

/** The guest's tick interval, in microseconds. A guest without KVM cannot tick faster. */
function tickMicroseconds({ accelerator }: Bench): number {
  return accelerator === "kvm" ? 2000 : 10_000;
}

/** A checkpoint of a running machine, as a reader of its output sees it. */
function checkpointPause(name: FigureName, memoryMB?: number): Scenario {
  return {
    figures: [name],
    async run(bench, keep) {
      const { client } = await bench.ours("plain");
      const kit = await bench.kit(memoryMB);
      const period = `${tickMicroseconds(bench)}`;
      const sandbox = await client.create(memoryMB === undefined ? {} : { memoryMB });
      await using _ = killed(sandbox);
      await ran(sandbox, changeMemory);
      const program = await installed(sandbox, "tick", bench.natives.tick);
      const [machine] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
      await using _machine = machine;
      await machine.agent.run("/bin/sh", "-c", changeMemory);
      await machine.agent.writeFile("/home/sandbox/tick", await readFile(bench.natives.tick), 0o755);

      const ours = async (round: number): Promise<void> => {
        const gaps = new Gaps();
        const session = await sandbox.exec.start(program, { args: [period], onStdout: () => gaps.tick() });
        await gaps.steady();
        const id = await checkpointed(client, sandbox);
        keep(name, "ours", round, await gaps.longest());
        await session.kill();
        await session.done;
        await sandbox.deleteCheckpoint(id);
      };
      const floor = async (round: number): Promise<void> => {
        const gaps = new Gaps();
        using _session = await machine.agent.start(["/home/sandbox/tick", period], () => gaps.tick());
        await gaps.steady();
        const [, parts] = await machine.checkpoint(bench.newPath(), bench.mover);
        keep(name, "floor", round, await gaps.longest(), parts);
      };
      const what = `pause of a checkpoint${memoryMB === undefined ? "" : `, ${memoryMB} MB`}`;
      await alternate(bench, what, bench.options.rounds, ours, floor);
    },
  };
}

export const checkpointAndFork: Scenario = {
  figures: ["checkpoint", "fork"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("plain");
    const kit = await bench.kit();
    const sandbox = await client.create();
    await using _ = killed(sandbox);
    await ran(sandbox, changeMemory);
    const [machine] = await RawMachine.restored(kit, bench.newPath(), bench.mover);
    await using _machine = machine;
    await machine.agent.run("/bin/sh", "-c", changeMemory);

    const ours = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const id = await checkpointed(client, sandbox);
      keep("checkpoint", "ours", round, watch.elapsed);
      const forking = new Stopwatch();
      const fork = await client.fork(id);
      forking.lap("fork");
      await using _fork = killed(fork);
      const { spans } = client;
      await ranTrue(fork);
      forking.lap("first command");
      const { fork: start = 0, ...command } = forking.laps;
      keep("fork", "ours", round, forking.elapsed, { ...withRest(start, spans), ...command });
      await proveComplete(fork, server, fork.sandboxId.replace("sb", "sandbox"));
      await sandbox.deleteCheckpoint(id);
    };
    const floor = async (round: number): Promise<void> => {
      const watch = new Stopwatch();
      const [snapshot, parts] = await machine.checkpoint(bench.newPath(), bench.mover);
      keep("checkpoint", "floor", round, watch.elapsed, parts);
      const forking = new Stopwatch();
      const [fork, forkParts] = await RawMachine.restored(kit, bench.newPath(), bench.mover, snapshot);
      await using _fork = fork;
      forking.lap("fork");
      await fork.agent.run("/bin/sh", "-c", "true");
      forking.lap("first command");
      keep("fork", "floor", round, forking.elapsed, {
        ...forkParts,
        "first command": forking.laps["first command"] ?? 0,
      });
    };
    await alternate(bench, "checkpoint and fork", bench.options.rounds, ours, floor);
  },
};

/** Poll interval for the state of a checkpoint, in milliseconds: the published API has no event for it. */
const askMs = 2;

let checkpoints = 0;

/** Creates a checkpoint, waits until it is ready and returns its id. */
export async function checkpointed(client: Client, sandbox: Sandbox): Promise<string> {
  const { id } = await sandbox.createCheckpoint(`bench-${(checkpoints += 1)}`);
  const isReady = async (): Promise<boolean> => {
    const reply = await client.fetch("GET", `/api/sandboxes/${sandbox.sandboxId}/checkpoints/${id}`);
    const { status, errorMsg } = (await reply.json()) as { readonly status: string; readonly errorMsg?: string };
    if (status === "failed") throw new Error(`Checkpoint ${id} failed: ${errorMsg}`);
    return status === "ready";
  };
  await eventually(`checkpoint ${id} is ready`, isReady, { withinMs: 600_000, everyMs: askMs });
  return id;
}
