import assert from "node:assert/strict";
import { test } from "node:test";
import { merge, spreadsOf } from "./compare-checkouts.ts";
import { compareRuns, comparisonTable } from "./compare-runs.ts";
import { figureOf, type FigureName } from "./figures.ts";
import type { BenchResult, Measured } from "./report/result.ts";

function samples(values: readonly number[]): Measured[] {
  return values.map((value, index) => ({ round: index + 1, value }));
}

function run(
  figures: Partial<Record<FigureName, readonly [ours: readonly number[], raw: readonly number[]]>>,
): BenchResult {
  return {
    ...{ formatVersion: 1, startedAt: "2026-01-01T00:00:00.000Z", seconds: 1, skipped: [], failed: [] },
    options: { rounds: 10, image: "minimal", quick: false },
    host: {
      ...{ processor: "", processors: 2, memoryMib: 1, kernel: "", node: "", hypervisor: "", accelerator: "tcg" },
      ...{ network: "", loadBefore: 0, loadAfter: 0 },
    },
    figures: (Object.keys(figures) as FigureName[]).map((name) => {
      const [ours, raw] = figures[name]!;
      return { name, ...figureOf(name), ours: samples(ours), raw: samples(raw) };
    }),
  };
}

const around100 = [101, 99, 100, 102, 98, 103, 97, 104, 96, 105];
const times = (by: number, of: readonly number[] = around100): number[] => of.map((value) => value * by + value / 1e4);

function verdicts(before: BenchResult, after: BenchResult): Record<string, string> {
  return Object.fromEntries(compareRuns(before, after).map(({ name, verdict }) => [name, verdict]));
}

test("a clearly faster figure is better; for throughput, a clearly larger one", () => {
  const before = run({ wake: [times(1), around100], "file-up": [times(1), around100] });
  const after = run({ wake: [times(0.8), around100], "file-up": [times(0.8), around100] });
  assert.deepEqual(verdicts(before, after), { wake: "better", "file-up": "worse" });
  assert.deepEqual(verdicts(after, before), { wake: "worse", "file-up": "better" });
});

test("a slower host does not count as a change, because values are divided by their own floor", () => {
  const before = run({ wake: [times(1), around100.toReversed()] });
  const after = run({ wake: [times(3), times(3).toReversed()] });
  const [comparison] = compareRuns(before, after);
  assert.equal(comparison?.verdict, "cannot tell");
  assert.equal(comparison?.in, "floor");
});

test("a checkout whose floor differs in every turn is compared without the floor", () => {
  const threeTurns = (ours: readonly number[], ...raw: readonly (readonly number[])[]): BenchResult =>
    merge(raw.map((floor) => run({ wake: [ours, floor] })));
  const backwards = around100.toReversed();
  const before = threeTurns(around100, backwards, backwards, backwards);
  const after = threeTurns(backwards, times(0.5), times(0.6), times(0.7));
  assert.deepEqual(verdicts(before, after), { wake: "worse" });
  const [inTurns] = compareRuns(before, after, true);
  assert.deepEqual([inTurns?.verdict, inTurns?.in], ["cannot tell", "ms"]);
  assert.match(comparisonTable([inTurns!]), /cannot tell \(the floor itself changed by -\d+\.\d %\)/);
  const slower = threeTurns(times(2), times(0.5), times(0.6), times(0.7));
  assert.deepEqual(compareRuns(before, slower, true)[0]?.verdict, "worse");
  // The host was slower in one turn of the second checkout, or there are too few turns to know.
  for (const unsure of [threeTurns(backwards, times(0.5), times(0.6), times(2)), threeTurns(backwards, times(0.5))]) {
    assert.equal(compareRuns(before, unsure, true)[0]?.in, "floor");
  }
});

test("neither noise nor a repeated run counts as a change", () => {
  const before = run({ wake: [around100, around100] });
  assert.deepEqual(verdicts(before, run({ wake: [around100.toReversed().map((value) => value + 0.4), around100] })), {
    wake: "cannot tell",
  });
  assert.deepEqual(verdicts(before, before), { wake: "cannot tell" });
});

test("with many figures, a difference needs a smaller p-value to count", () => {
  // As the only figure, its difference would count: p is 0.035.
  const a = [10, 11, 12, 13, 14, 15, 16];
  const b = [13.5, 15.5, 16.5, 17.5, 18.5, 19.5, 20.5].map((value) => value - 1);
  assert.deepEqual(verdicts(run({ delete: [a, []] }), run({ delete: [b, []] })), { delete: "worse" });
  const others = { wake: [around100, around100], fork: [around100, around100], burst: [around100, around100] } as const;
  assert.equal(
    verdicts(run({ delete: [a, []], ...others }), run({ delete: [b, []], ...others }))["delete"],
    "cannot tell",
  );
});

test("figures that only one run has are left out", () => {
  assert.deepEqual(compareRuns(run({ wake: [around100, []] }), run({ fork: [around100, []] })), []);
});

test("many values from few rounds prove nothing, because one disturbance affects its whole round", () => {
  const rounds = (by: number): Measured[] =>
    Array.from({ length: 100 }, (_, index) => ({ round: 1 + (index % 3), value: by + index / 1000 }));
  const of = (by: number): BenchResult => {
    const result = run({ wake: [[1], [1]] });
    return { ...result, figures: result.figures.map((figure) => ({ ...figure, ours: rounds(by), raw: rounds(1) })) };
  };
  assert.deepEqual(verdicts(of(2), of(3)), { wake: "cannot tell" });
});

test("merging turns keeps all values, and the spread is the distance between their ratios", () => {
  const turns = [
    run({
      wake: [
        [100, 100],
        [50, 50],
      ],
    }),
    run({
      wake: [
        [110, 110],
        [50, 50],
      ],
    }),
  ];
  const [wake] = merge(turns).figures;
  assert.deepEqual([wake?.ours.length, wake?.raw.length], [4, 4]);
  // Rounds are compared within one turn only.
  assert.equal(new Set(wake?.ours.map(({ round }) => round)).size, 4);
  const { wake: spread = 0 } = spreadsOf([turns, turns.slice(0, 1)]);
  assert.ok(Math.abs(spread - 0.1) < 1e-9, String(spread));
});
