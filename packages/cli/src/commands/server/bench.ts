import { readFile, stat, writeFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import { flag, one, optional, text, whole } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";
import { requireCheckout } from "../../installation.ts";
import { writeTo } from "#output/write-to.ts";

const quickRounds = 3;
const fullRounds = 15;
const defaultTurns = 5;

const measure = defineCommand({
  summary: "Measure this host, relative to the floor: the same machines without OpenSandbox",
  description: `Starts servers of its own. Takes about ten minutes on an idle processor. Each figure alternates with its floor, so
that a slow or busy host affects both: only the ratio counts. Exits with 1 when the host clearly misses a promise of the
specification, or when something does not work.

Needs gcc, which compiles the floor's programs.`,
  arguments: { file: optional("FILE") },
  options: {
    rounds: whole("N", `measurements of each figure (default: ${fullRounds}, with --quick ${quickRounds})`),
    only: text("NAME,...", "only these figures"),
    image: text("NAME", "minimal or default (default: default)"),
    quick: flag("fewer rounds and smaller bursts"),
    explain: flag("also show where the time goes"),
    html: text("FILE", "write an HTML page with plots"),
  },
  examples: [
    { line: "bench", shows: "measure every figure" },
    {
      line: "bench --quick --image minimal --only create-ready,wake --explain",
      shows: "measure some figures and show where their time goes",
    },
    { line: "bench --json before.json --html before.html", shows: "store every value, and write a page of them" },
  ],
  check: ({ image, rounds }) => {
    if (image !== undefined && image !== "minimal" && image !== "default") return "--image must be minimal or default";
    return rounds === 0 ? "--rounds must be at least 1" : undefined;
  },
  async run({ file, rounds, only, image, quick, explain, html }, { host, globals, print, progress, signal }) {
    if (file !== undefined && !globals.json) throw usageError("FILE needs --json", ["bench"]);
    requireCheckout("osb bench");
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
  summary: "Compare two runs, or two checkouts",
  description: `Uses the Mann-Whitney U test, which is robust against outliers. If both runs have a floor, values are relative to
it, so that another or a busier host is no difference. Exits with 1 when a figure is worse.

If BEFORE and AFTER are directories, they are checkouts of this repository and are measured in turns. The spread is the
variation of one checkout's ratios between turns. Compare a checkout with itself to see the host's noise.`,
  arguments: { before: one("BEFORE"), after: one("AFTER") },
  options: {
    turns: whole("N", `turns of each checkout (default: ${defaultTurns})`),
    rounds: whole("N", `measurements of each figure in a turn (default: ${quickRounds})`),
    only: text("NAME,...", "only these figures"),
    image: text("NAME", "minimal or default (default: default)"),
  },
  examples: [
    { line: "bench compare before.json after.json", shows: "judge each figure: better, worse or undecided" },
    { line: "bench compare ../main . --only wake,fork", shows: "compare two checkouts by some figures" },
    { line: "bench compare . . --turns 2", shows: "show the host's noise" },
  ],
  check: ({ turns, rounds }) => (turns === 0 || rounds === 0 ? "--turns and --rounds must be at least 1" : undefined),
  async run({ before, after, turns = defaultTurns, ...wishes }, { print, progress, signal }) {
    requireCheckout("osb bench compare");
    const { compareRuns, comparisonTable } = await import("../../../../../bench/compare-runs.ts");
    const kinds = await Promise.all([before, after].map(isDirectory));
    if (kinds[0] !== kinds[1])
      throw usageError("compare either two result files or two checkouts", ["bench", "compare"]);
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
      const comparisons = compareRuns(measured.before, measured.after, true);
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
  // Reading a missing path reports it.
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
    throw new SandboxError("invalid_argument", `cannot read ${file}: ${code}`, { cause });
  }
}
