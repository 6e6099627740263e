import assert from "node:assert/strict";
import { test } from "node:test";
import { figures } from "../figures.ts";
import { plotsOf } from "./plots.ts";
import type { BenchResult, FigureResult, Measured } from "./result.ts";

const samples = (...all: readonly number[]): Measured[] => all.map((value, round) => ({ round, value }));

function resultOf(...measured: readonly FigureResult[]): BenchResult {
  return { host: { accelerator: "tcg" }, figures: measured } as unknown as BenchResult;
}

const wake: FigureResult = { ...figures.wake, name: "wake", ours: samples(130, 130), raw: samples(100, 100) };
const up: FigureResult = { ...figures["file-up"], name: "file-up", ours: samples(5, 5), raw: samples(10, 10) };

test("a ratio is that of the times, also where the figure is a rate", () => {
  const [ratios] = plotsOf(resultOf(wake, up));
  assert.match(ratios?.svg ?? "", /wake, 16 MB changed: 1\.30 \(1\.30 to 1\.30\)/);
  assert.match(ratios?.svg ?? "", /file up: 2\.00 \(2\.00 to 2\.00\)/);
});

test("a run without parts has no drawing of them, and one with parts names each", () => {
  assert.deepEqual(
    plotsOf(resultOf(wake)).map(({ file }) => file),
    ["ratios.svg"],
  );
  const withParts = { ...wake, ours: [{ round: 1, value: 130, parts: { devices: 100, "round <trip>": 30 } }] };
  const [, parts] = plotsOf(resultOf(withParts));
  assert.match(parts?.svg ?? "", /devices: 100 ms/);
  assert.match(parts?.svg ?? "", /round &lt;trip>: 30\.0 ms/);
});
