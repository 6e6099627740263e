// Forks one checkpoint many times: see fork-many.ts. The exit code is 1 when two machines share a value that must be
// unique.
import { parseArgs } from "node:util";
import { forkMany } from "./fork-many.ts";

const { values } = parseArgs({
  options: {
    count: { type: "string", default: "64" },
    batch: { type: "string", default: "4" },
    image: { type: "string", default: "default" },
  },
});
/** Maximum clock error of a fork that has run for a moment. */
const maxSkewMs = 50;

const since = performance.now();
const { failures, forks, clocks } = await forkMany({
  count: Number(values.count),
  batch: Number(values.batch),
  image: values.image,
  say: (line) => process.stderr.write(`${line}\n`),
});
const late = clocks.filter(({ aheadMs, withinMs }) => Math.abs(aheadMs) > maxSkewMs + withinMs);
const all = [...failures, ...late.map(({ aheadMs }) => `a clock is ${round(aheadMs)} ms ahead`)];
const skews = clocks.map(({ aheadMs }) => Math.abs(aheadMs)).toSorted((a, b) => a - b);
process.stdout.write(
  [
    `${forks} forks in ${Math.round((performance.now() - since) / 1000)} s, ${values.batch} at a time`,
    `clock skew: ${round(skews[Math.floor(skews.length / 2)])} ms in the middle, ${round(skews.at(-1))} ms at most, ` +
      `measured to ${round(Math.max(...clocks.map(({ withinMs }) => withinMs)))} ms`,
    ...all,
    `${all.length} failures`,
    "",
  ].join("\n"),
);
process.exitCode = all.length === 0 ? 0 : 1;

function round(milliseconds = Number.NaN): string {
  return milliseconds.toFixed(1);
}
