// Draws the figures of a run for docs/performance.md. Usage: node bench/plots.ts RESULT.json DIRECTORY, with a result of
// `./opensandbox bench --json`.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { plotsOf } from "./report/plots.ts";
import { parseResult } from "./report/result.ts";

const [file, directory] = process.argv.slice(2);
if (file === undefined || directory === undefined) {
  console.error("Usage: node bench/plots.ts RESULT.json DIRECTORY");
  process.exit(2);
}
await mkdir(directory, { recursive: true });
for (const plot of plotsOf(parseResult(file, await readFile(file, "utf8")))) {
  await writeFile(join(directory, plot.file), plot.svg);
  console.log(join(directory, plot.file));
}
