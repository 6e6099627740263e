// Forks one checkpoint many times: see fork-many.ts. The exit code is 1 when two machines have something in common that
// they must not.
import { parseArgs } from "node:util";
import { forkMany } from "./fork-many.ts";

const { values } = parseArgs({
  options: {
    count: { type: "string", default: "64" },
    batch: { type: "string", default: "4" },
    image: { type: "string", default: "default" },
  },
});
const since = performance.now();
const { failures, forks, clocks } = await forkMany({
  count: Number(values.count),
  batch: Number(values.batch),
  image: values.image,
  say: (line) => process.stderr.write(`${line}\n`),
});
const skews = clocks.map(({ aheadMs }) => Math.abs(aheadMs)).toSorted((a, b) => a - b);
const round = (milliseconds = Number.NaN): string => milliseconds.toFixed(1);
process.stdout.write(
  [
    `${forks} forks in ${Math.round((performance.now() - since) / 1000)} s, ${values.batch} at a time`,
    `clock skew: ${round(skews[Math.floor(skews.length / 2)])} ms in the middle, ${round(skews.at(-1))} ms at most, ` +
      `measured to ${round(Math.max(...clocks.map(({ withinMs }) => withinMs)))} ms`,
    ...failures,
    `${failures.length} failures`,
    "",
  ].join("\n"),
);
process.exitCode = failures.length === 0 ? 0 : 1;
