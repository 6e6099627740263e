import type { Bench, Scenario } from "../bench.ts";
import type { FigureName } from "../figures.ts";
import type { Sandbox } from "../ours/client.ts";
import { killed, ran } from "../ours/sandboxes.ts";
import { Stopwatch } from "../stopwatch.ts";

const repository = "/home/sandbox/repository";

/** The commands that callers run first. */
const commands = [
  ["first-bash", "bash -lc true"],
  ["first-node", "node -v"],
  ["first-python", "python3 -c ''"],
  ["first-git", `git -C ${repository} status`],
] as const satisfies readonly (readonly [FigureName, string])[];

/**
 * Each command in a sandbox of its own, restored from the template: its first run there and its second one. A template
 * whose warm-up misses pages that the command needs makes the first one slower.
 */
export const firstCommands: Scenario = {
  figures: commands.map(([name]) => name),
  whyNot: ({ options }) => (options.image === "minimal" ? "the image minimal has no node, python3 and git" : undefined),
  async run(bench, keep) {
    const { client } = await bench.ours("plain");
    const wanted = commands.filter(([name]) => isWanted(bench, name));
    for (let round = 0; round <= bench.options.rounds; round += 1) {
      bench.report(`first commands: ${round === 0 ? "warming up" : `round ${round} of ${bench.options.rounds}`}`);
      for (const [name, command] of wanted) {
        bench.signal.throwIfAborted();
        const sandbox = await client.create();
        await using _ = killed(sandbox);
        // The first call of all is measured by `first-command`.
        await ran(sandbox, "true");
        if (name === "first-git") await makeRepository(sandbox);
        for (const side of ["ours", "floor"] as const) {
          const watch = new Stopwatch();
          await ran(sandbox, command);
          keep(name, side, round, watch.elapsed);
        }
      }
    }
  },
};

function isWanted({ options }: Bench, name: FigureName): boolean {
  return options.only.length === 0 || options.only.includes(name);
}

/** An empty repository, made without git, whose first run is to be measured. */
async function makeRepository(sandbox: Sandbox): Promise<void> {
  await sandbox.files.write(`${repository}/.git/HEAD`, "ref: refs/heads/main\n");
  for (const directory of ["objects", "refs"]) await sandbox.files.makeDir(`${repository}/.git/${directory}`);
}
