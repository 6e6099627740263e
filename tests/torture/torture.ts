// Tortures a sandbox with snapshots: see torture-sandbox.ts. Prints its seed first and its result last. The exit code
// is 1 when an acknowledged write is missing.
import { parseArgs } from "node:util";
import { tortureSandbox } from "./torture-sandbox.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "50" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 32)) },
    image: { type: "string", default: "default" },
    files: { type: "string", default: "10000" },
  },
});
process.stdout.write(`seed ${values.seed}\n`);
const since = performance.now();
const result = await tortureSandbox({
  rounds: Number(values.rounds),
  seed: Number(values.seed),
  image: values.image,
  files: Number(values.files),
  say: (line) => process.stderr.write(`${line}\n`),
});
const paused = result.pausedMs.toSorted((a, b) => a - b);
const seconds = Math.round((performance.now() - since) / 1000);
process.stdout.write(
  [
    `image ${values.image}, ${seconds} s`,
    ...Object.entries(result.done).map(([operation, times]) => `${operation}: ${times}`),
    ...Object.entries(result.acknowledged).map(([writer, number]) => `acknowledged by ${writer}: ${number}`),
    `paused for a checkpoint: ${at(paused, 0.5)} ms in the middle, ${at(paused, 1)} ms at most`,
    ...result.failures,
    `${result.failures.length} failures`,
    "",
  ].join("\n"),
);
process.exitCode = result.failures.length === 0 ? 0 : 1;

function at(sorted: readonly number[], share: number): number {
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0);
}
