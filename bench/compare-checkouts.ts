import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FigureName } from "./figures.ts";
import { type BenchResult, type FigureResult, type Measured, parseResult } from "./report/result.ts";
import { ratioOf } from "./statistics/ratio.ts";

/** Two checkouts. Given the same one twice, the differences are noise. */
export type Checkouts = readonly [before: string, after: string];

export interface Turns {
  /** Number of measurements of each checkout. */
  readonly turns: number;
  /** Options passed to the benchmark of both. */
  readonly options: readonly string[];
}

export interface MeasuredInTurns {
  readonly before: BenchResult;
  readonly after: BenchResult;
  readonly spreads: Spreads;
}

/** Spread of the ratios of one checkout's turns: 0.1 means that the largest is 10 % above the smallest. */
export type Spreads = Readonly<Partial<Record<FigureName, number>>>;

/**
 * Measures two checkouts in alternation, each with its own benchmark, so that a disturbance of the host affects both.
 */
export async function measureInTurns(
  checkouts: Checkouts,
  { turns, options }: Turns,
  onProgress: (step: string) => void,
  signal: AbortSignal,
): Promise<MeasuredInTurns> {
  const runs: [BenchResult[], BenchResult[]] = [[], []];
  for (let turn = 1; turn <= turns; turn += 1) {
    // The second checkout of one turn is the first of the next.
    for (const side of turn % 2 === 1 ? ([0, 1] as const) : ([1, 0] as const)) {
      onProgress(`turn ${turn} of ${turns}: ${checkouts[side]}`);
      runs[side].push(await measureOnce(checkouts[side], options, signal));
    }
  }
  return { before: merge(runs[0]), after: merge(runs[1]), spreads: spreadsOf(runs) };
}

async function measureOnce(checkout: string, options: readonly string[], signal: AbortSignal): Promise<BenchResult> {
  const directory = await mkdtemp(join(tmpdir(), "osb-bench-"));
  try {
    const file = join(directory, "result.json");
    const argv = ["bench", "--json", ...options, file];
    const child = spawn(resolve(checkout, "opensandbox"), argv, { stdio: ["ignore", "ignore", "pipe"], signal });
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-4000);
    });
    const [code] = (await once(child, "close")) as [number | null];
    // Exit code 1 means that a promise is missed, which does not matter here, or that a call failed, which the output
    // reports.
    const text = await readFile(file, "utf8").catch((cause: unknown) => {
      throw new SandboxError("unavailable", `${argv.join(" ")} in ${checkout}: exit code ${code}: ${said}`, {
        cause,
      });
    });
    return parseResult(file, text);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Merges the values of all runs as if one run had measured them. Pure. */
export function merge(runs: readonly BenchResult[]): BenchResult {
  const [first] = runs;
  if (first === undefined) throw new Error("there is nothing to merge");
  const figures = first.figures.map((figure) => {
    const parts = runs.flatMap((run, turn) => {
      const found = run.figures.find(({ name }) => name === figure.name);
      return found === undefined ? [] : [ofTurn(found, turn)];
    });
    return { ...figure, ours: parts.flatMap(({ ours }) => ours), raw: parts.flatMap(({ raw }) => raw) };
  });
  return { ...first, figures, failed: runs.flatMap(({ failed }) => failed) };
}

const roundsPerTurn = 1_000_000;

/** The turn of a round of merged results. Pure. */
export function turnOf(round: number): number {
  return Math.floor(round / roundsPerTurn);
}

/** Rounds of different turns are unrelated, so each gets a number of its own. */
function ofTurn({ ours, raw }: FigureResult, turn: number): Pick<FigureResult, "ours" | "raw"> {
  const renumbered = (samples: readonly Measured[]): Measured[] =>
    samples.map((sample) => ({ ...sample, round: turn * roundsPerTurn + sample.round }));
  return { ours: renumbered(ours), raw: renumbered(raw) };
}

/** The spread of every figure that has a floor: the wider one of the two checkouts. Pure. */
export function spreadsOf(sides: readonly (readonly BenchResult[])[]): Spreads {
  const spreads: Partial<Record<FigureName, number>> = {};
  for (const runs of sides) {
    for (const { name } of runs[0]?.figures ?? []) {
      const ratios = runs.flatMap(({ figures }) => {
        const figure = figures.find((found) => found.name === name);
        const ratio = figure === undefined ? undefined : ratioOf(figure.ours, figure.raw);
        return ratio === undefined ? [] : [ratio.value];
      });
      if (ratios.length < 2) continue;
      spreads[name] = Math.max(spreads[name] ?? 0, Math.max(...ratios) / Math.min(...ratios) - 1);
    }
  }
  return spreads;
}
