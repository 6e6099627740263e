import { readFile, stat, writeFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import { flag, one, optional, text, whole } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";
import { writeTo } from "#output/write-to.ts";

const quickRounds = 3;
const fullRounds = 15;
const defaultTurns = 5;

const measure = defineCommand({
  summary: "Measure this host, beside the floor: the same machines driven raw",
  description: `Starts servers of its own, and takes some ten minutes with a processor for itself. Each figure is
measured in turn with its floor, so that a slow or a busy host changes both: the ratio is what counts. Exits with 1
when a promise is clearly missed, or something does not work.

Needs gcc: the floor's programs are compiled first.`,
  arguments: { file: optional("FILE") },
  options: {
    rounds: whole("N", `how often each figure is measured (default: ${fullRounds}, with --quick ${quickRounds})`),
    only: text("NAME,...", "only these figures"),
    image: text("NAME", "minimal or default (default: default)"),
    quick: flag("fewer rounds, smaller bursts, less to wait for"),
    explain: flag("also say where the time goes"),
    html: text("FILE", "write a page with plots"),
  },
  examples: [
    { line: "bench", shows: "every figure" },
    {
      line: "bench --quick --image minimal --only create-ready,wake --explain",
      shows: "some, and where their time goes",
    },
    { line: "bench --json before.json --html before.html", shows: "keep every value, and make a page of them" },
    { line: "bench compare before.json after.json", shows: "what has changed between two runs" },
  ],
  check: ({ image, rounds }) => {
    if (image !== undefined && image !== "minimal" && image !== "default") return "--image must be minimal or default";
    return rounds === 0 ? "--rounds must be at least 1" : undefined;
  },
  async run({ file, rounds, only, image, quick, explain, html }, { host, globals, print, progress, signal }) {
    if (file !== undefined && !globals.json) throw usageError("a FILE goes with --json", ["bench"]);
    const { runBench, parseFigureNames } = await import("../../../../../bench/run-bench.ts");
    const { resultTable, explanation } = await import("../../../../../bench/report/table.ts");
    const { missedPromises } = await import("../../../../../bench/report/judge.ts");
    using shown = progress();
    const options = {
      rounds: rounds ?? (quick ? quickRounds : fullRounds),
      only: parseFigureNames(only ?? ""),
      image: image === "minimal" ? "minimal" : "default",
      quick,
    } as const;
    const result = await runBench(options, host.env, (step) => shown.report(step), signal);
    shown.pause();
    if (html !== undefined) {
      const { resultPage } = await import("../../../../../bench/report/html.ts");
      await writeFile(html, resultPage(result));
    }
    const human = `${resultTable(result)}${explain ? `\n\n${explanation(result)}` : ""}`;
    if (file === undefined) {
      await print(human, result);
    } else {
      await writeFile(file, `${JSON.stringify(result)}\n`);
      await writeTo(host.stdout, `${human}\n`);
    }
    return result.failed.length > 0 || missedPromises(result).length > 0 ? 1 : 0;
  },
});

const compare = defineCommand({
  summary: "Say what has changed between two runs, or two checkouts",
  description: `By the Mann-Whitney U test, which does not mind outliers. Where both runs have a floor, values are told in
it: another host, or a busy one, is no change. Exits with 1 when something is worse.

Directories are checkouts of this repository, which are measured in alternation. How far the ratios of one checkout lie
apart from turn to turn is the spread; the same checkout twice shows what the host's noise can do.`,
  arguments: { before: one("BEFORE"), after: one("AFTER") },
  options: {
    turns: whole("N", `how often each checkout is measured (default: ${defaultTurns})`),
    rounds: whole("N", `how often each figure is measured in a turn (default: ${quickRounds})`),
    only: text("NAME,...", "only these figures"),
    image: text("NAME", "minimal or default (default: default)"),
  },
  examples: [
    { line: "bench compare before.json after.json", shows: "figure by figure: better, worse or cannot tell" },
    { line: "bench compare ../main . --only wake,fork", shows: "two checkouts, some figures" },
    { line: "bench compare . . --turns 2", shows: "how far two runs of the same lie apart" },
  ],
  check: ({ turns, rounds }) => (turns === 0 || rounds === 0 ? "--turns and --rounds must be at least 1" : undefined),
  async run({ before, after, turns = defaultTurns, ...wishes }, { print, progress, signal }) {
    const { compareRuns, comparisonTable } = await import("../../../../../bench/compare-runs.ts");
    const kinds = await Promise.all([before, after].map(isDirectory));
    if (kinds[0] !== kinds[1]) throw usageError("two results or two checkouts are compared", ["bench", "compare"]);
    if (kinds[0]) {
      const { measureInTurns } = await import("../../../../../bench/compare-checkouts.ts");
      using shown = progress();
      const measured = await measureInTurns(
        [before, after],
        { turns, options: benchOptions(wishes) },
        (step) => shown.report(step),
        signal,
      );
      shown.pause();
      const comparisons = compareRuns(measured.before, measured.after);
      await print(comparisonTable(comparisons, measured.spreads), { comparisons, spreads: measured.spreads });
      return comparisons.some(({ verdict }) => verdict === "worse") ? 1 : 0;
    }
    const { parseResult } = await import("../../../../../bench/report/result.ts");
    const [a, b] = await Promise.all([before, after].map(async (file) => parseResult(file, await readResult(file))));
    const comparisons = compareRuns(a!, b!);
    await print(comparisonTable(comparisons), comparisons);
    return comparisons.some(({ verdict }) => verdict === "worse") ? 1 : 0;
  },
});

export const bench = defineGroup({
  summary: "Measure this host, and compare two runs",
  alone: measure,
  commands: { compare },
});

async function isDirectory(path: string): Promise<boolean> {
  // What is not there is told of by whoever reads it.
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

function benchOptions(wishes: {
  readonly rounds: number | undefined;
  readonly only: string | undefined;
  readonly image: string | undefined;
}): string[] {
  const given = { ...wishes, rounds: String(wishes.rounds ?? quickRounds) };
  return Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, value]));
}

async function readResult(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new SandboxError("invalid_argument", `cannot read ${file} (${code})`, { cause });
  }
}
