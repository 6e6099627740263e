import { table } from "../packages/cli/src/output/table.ts";
import type { Spreads } from "./compare-checkouts.ts";
import type { FigureName } from "./figures.ts";
import { digits } from "./report/numbers.ts";
import type { BenchResult, FigureResult } from "./report/result.ts";
import { mannWhitney } from "./statistics/mann-whitney.ts";
import { median } from "./statistics/quantile.ts";
import { values } from "./statistics/ratio.ts";

export interface Comparison {
  readonly name: FigureName;
  /** `floor`: values are divided by the floor of their round, so that a slower host is no change. */
  readonly in: "floor" | FigureResult["unit"];
  readonly before: number;
  readonly after: number;
  /** How probable such a difference is when nothing has changed. */
  readonly p: number;
  readonly verdict: "better" | "worse" | "cannot tell";
}

/** Probability of a false change, over all figures of a comparison together. */
const mistakes = 0.05;

/**
 * What has changed between two runs, figure by figure, by the Mann-Whitney U test. Many figures are looked at, so the
 * least probable one has to be the most improbable: Holm's method.
 */
export function compareRuns(before: BenchResult, after: BenchResult): readonly Comparison[] {
  const pairs = before.figures.flatMap((a) => {
    const b = after.figures.find(({ name }) => name === a.name);
    return b === undefined || a.ours.length === 0 || b.ours.length === 0 ? [] : [compare(a, b)];
  });
  const ranked = pairs.toSorted((a, b) => a.p - b.p);
  let believed = true;
  const certain = new Set<FigureName>();
  for (const [index, { name, p }] of ranked.entries()) {
    believed &&= p <= mistakes / (ranked.length - index);
    if (believed) certain.add(name);
  }
  return pairs.map((pair) => (certain.has(pair.name) ? pair : { ...pair, verdict: "cannot tell" }));
}

function compare(a: FigureResult, b: FigureResult): Comparison {
  const inFloor = a.raw.length > 0 && b.raw.length > 0;
  const [x, y] = [a, b].map((figure) => [...roundsOf(figure, inFloor)]) as [number[], number[]];
  const before = median(x);
  const after = median(y);
  const improved = a.better === "less" ? after < before : after > before;
  return {
    ...{ name: a.name, in: inFloor ? "floor" : a.unit, before, after, p: mannWhitney(x, y).p },
    verdict: improved ? "better" : "worse",
  };
}

/**
 * One value a round: what is measured in a row has the host's noise in common, so that many values say no more than one.
 * The floor of the same round had that noise too; where a side was not measured in it, the floor of the whole run counts.
 */
function* roundsOf({ ours, raw }: FigureResult, inFloor: boolean): Generator<number> {
  const whole = median(values(raw));
  for (const round of new Set(ours.map((sample) => sample.round))) {
    const [own, floor] = [ours, raw].map((side) => values(side.filter((sample) => sample.round === round)));
    const unit = floor!.length > 0 ? median(floor!) : whole;
    yield median(own!) / (inFloor ? unit : 1);
  }
}

/** For people; with how far the ratios of the runs of one checkout lie apart, where there were several. */
export function comparisonTable(comparisons: readonly Comparison[], spreads?: Spreads): string {
  const spread = (name: FigureName): string[] => {
    if (spreads === undefined) return [];
    return [spreads[name] === undefined ? "" : `${digits(spreads[name] * 100)} %`];
  };
  const rows = comparisons.map(({ name, in: unit, before, after, p, verdict }) => [
    name,
    unit === "floor" ? "x floor" : unit,
    digits(before),
    digits(after),
    `${after >= before ? "+" : ""}${digits((after / before - 1) * 100)} %`,
    p < 0.001 ? "<0.001" : p.toFixed(3),
    ...spread(name),
    verdict,
  ]);
  const head = ["figure", "", "before", "after", "change", "p", ...(spreads === undefined ? [] : ["spread"]), ""];
  return table(head, rows);
}
