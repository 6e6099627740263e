import { table } from "../packages/cli/src/output/table.ts";
import { type Spreads, turnOf } from "./compare-checkouts.ts";
import type { FigureName } from "./figures.ts";
import { digits } from "./report/numbers.ts";
import type { BenchResult, FigureResult } from "./report/result.ts";
import { mannWhitney } from "./statistics/mann-whitney.ts";
import { median } from "./statistics/quantile.ts";
import { values } from "./statistics/ratio.ts";

export interface Comparison {
  readonly name: FigureName;
  /** `floor`: each value is divided by the floor of its round, so that a slower host does not count as a change. */
  readonly in: "floor" | FigureResult["unit"];
  /** Change of the floor, where it differs between two checkouts: 0.1 is 10 % more. Then `in` is the figure's unit. */
  readonly floorChange?: number;
  readonly before: number;
  readonly after: number;
  /** The p-value: the probability of such a difference when nothing has changed. */
  readonly p: number;
  readonly verdict: "better" | "worse" | "cannot tell";
}

/** Probability of a false change, over all figures of a comparison together. */
const mistakes = 0.05;

/**
 * Below this p-value, and with every turn's floor of one checkout above every one of the other in at least so many turns,
 * the floors differ. Fewer turns cannot tell a change of the guest from a host whose load changed between them.
 */
const floorsDiffer = 0.01;
const minTurns = 3;

/**
 * Finds the figures that changed between two runs, by the Mann-Whitney U test. Holm's method corrects for the number of
 * figures.
 *
 * The floor runs the guest of its own checkout, so a change of the guest changes the floor too. Of runs that were
 * measured `inTurns`, a floor that differs is such a change and not the host's: the figure is then compared in its unit.
 */
export function compareRuns(before: BenchResult, after: BenchResult, inTurns = false): readonly Comparison[] {
  const pairs = before.figures.flatMap((a) => {
    const b = after.figures.find(({ name }) => name === a.name);
    return b === undefined || a.ours.length === 0 || b.ours.length === 0 ? [] : [compare(a, b, inTurns)];
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

function compare(a: FigureResult, b: FigureResult, inTurns: boolean): Comparison {
  const floorChange = inTurns ? floorChangeOf(a, b) : undefined;
  const inFloor = a.raw.length > 0 && b.raw.length > 0 && floorChange === undefined;
  const [x, y] = [a, b].map((figure) => [...roundsOf(figure, inFloor)]) as [number[], number[]];
  const before = median(x);
  const after = median(y);
  const improved = a.better === "less" ? after < before : after > before;
  return {
    ...{ name: a.name, in: inFloor ? "floor" : a.unit, before, after, p: mannWhitney(x, y).p },
    verdict: improved ? "better" : "worse",
    ...(floorChange !== undefined && { floorChange }),
  };
}

function floorChangeOf(a: FigureResult, b: FigureResult): number | undefined {
  const [x, y] = [a, b].map(({ raw }) => [...roundsOf({ ours: raw, raw: [] }, false)]) as [number[], number[]];
  const [before, after] = [a, b].map(floorsOfTurns) as [number[], number[]];
  const isApart = Math.max(...before) < Math.min(...after) || Math.max(...after) < Math.min(...before);
  if (Math.min(before.length, after.length) < minTurns || !isApart) return undefined;
  return mannWhitney(x, y).p < floorsDiffer ? median(y) / median(x) - 1 : undefined;
}

function floorsOfTurns({ raw }: FigureResult): number[] {
  const turns = Map.groupBy(raw, ({ round }) => turnOf(round));
  return [...turns.values()].map((samples) => median(values(samples)));
}

/**
 * Reduces each round to one value: the values of a round share the host's noise, so more of them add no evidence. Each
 * is divided by the floor of its round, or by the floor of the whole run where the round has none.
 */
function* roundsOf({ ours, raw }: Pick<FigureResult, "ours" | "raw">, inFloor: boolean): Generator<number> {
  const whole = raw.length > 0 ? median(values(raw)) : 1;
  for (const round of new Set(ours.map((sample) => sample.round))) {
    const [own, floor] = [ours, raw].map((side) => values(side.filter((sample) => sample.round === round)));
    const unit = floor!.length > 0 ? median(floor!) : whole;
    yield median(own!) / (inFloor ? unit : 1);
  }
}

/** The comparison as text. With several runs of each checkout it includes their spread. */
export function comparisonTable(comparisons: readonly Comparison[], spreads?: Spreads): string {
  const spread = (name: FigureName): string[] => {
    if (spreads === undefined) return [];
    return [spreads[name] === undefined ? "" : `${digits(spreads[name] * 100)} %`];
  };
  const rows = comparisons.map(({ name, in: unit, before, after, p, verdict, floorChange }) => [
    name,
    unit === "floor" ? "x floor" : unit,
    digits(before),
    digits(after),
    percent(after / before - 1),
    p < 0.001 ? "<0.001" : p.toFixed(3),
    ...spread(name),
    floorChange === undefined ? verdict : `${verdict} (the floor itself changed by ${percent(floorChange)})`,
  ]);
  const head = ["figure", "", "before", "after", "change", "p", ...(spreads === undefined ? [] : ["spread"]), ""];
  return table(head, rows);
}

function percent(change: number): string {
  return `${change >= 0 ? "+" : ""}${digits(change * 100)} %`;
}
