import { alternate, type Scenario } from "../bench.ts";
import type { Sandbox } from "../ours/client.ts";
import { killed, ran } from "../ours/sandboxes.ts";
import { Stopwatch } from "../stopwatch.ts";
import { checkpointed } from "./checkpoint-fork.ts";
import { changeMemory } from "./hibernate-wake.ts";

/**
 * The work of a sandbox right after a capture, against the same work without one: new disk layers, pages that are copied
 * at their first write, a fork that has just started.
 */
export const aroundCaptures: Scenario = {
  figures: ["source-write", "fork-write", "checkpoint-after-wake"],
  async run(bench, keep) {
    const { client } = await bench.ours("plain");
    const sandbox = await client.create();
    await using _ = killed(sandbox);
    await ran(sandbox, changeMemory);

    const floor = async (round: number): Promise<void> => {
      keep("source-write", "floor", round, await milliseconds(() => ran(sandbox, writeMuch)));
      keep("fork-write", "floor", round, await milliseconds(() => writeLittle(sandbox)));
      const watch = new Stopwatch();
      const id = await checkpointed(client, sandbox);
      keep("checkpoint-after-wake", "floor", round, watch.elapsed);
      await sandbox.deleteCheckpoint(id);
    };
    const ours = async (round: number): Promise<void> => {
      const checkpoint = await checkpointed(client, sandbox);
      keep("source-write", "ours", round, await milliseconds(() => ran(sandbox, writeMuch)));
      {
        const fork = await client.fork(checkpoint);
        await using _fork = killed(fork);
        keep("fork-write", "ours", round, await milliseconds(() => writeLittle(fork)));
      }
      await sandbox.deleteCheckpoint(checkpoint);
      await sandbox.hibernate();
      await sandbox.wake();
      const watch = new Stopwatch();
      const id = await checkpointed(client, sandbox);
      keep("checkpoint-after-wake", "ours", round, watch.elapsed);
      await sandbox.deleteCheckpoint(id);
    };
    await alternate(bench, "work after a capture", bench.options.rounds, ours, floor);
  },
};

const writeMuch = "head -c 4000000 /dev/zero > /workspace/much && sync /workspace/much";

const little = "/workspace/little";

/** As a client does it: two calls for the file, one command between them. */
async function writeLittle(sandbox: Sandbox): Promise<void> {
  const content = `${performance.now()}`;
  await sandbox.files.write(little, content);
  await ran(sandbox, `sync ${little}`);
  const read = await sandbox.files.read(little);
  if (read !== content) throw new Error(`the file has "${read}" instead of "${content}"`);
}

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const watch = new Stopwatch();
  await work();
  return watch.elapsed;
}
