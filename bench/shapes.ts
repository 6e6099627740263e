// Compares the start of sandboxes of other shapes with that of the template's own shape. All alternate in one run, so a
// busy host slows them alike. Usage: node bench/shapes.ts [rounds]   (default 10; needs the image `minimal`)
import { startTestHost } from "../packages/worker/src/testing/test-host.ts";
import { digits } from "./report/numbers.ts";
import { median } from "./statistics/quantile.ts";
import { Stopwatch } from "./stopwatch.ts";

const shapes = {
  "the template's own": {},
  "disk of 30720 MiB": { workspaceMib: 30_720 },
  "disk of 262144 MiB": { workspaceMib: 262_144 },
  "memory of 512 MiB": { memoryMib: 512 },
  "memory of 1152 MiB": { memoryMib: 1152 },
  "memory of 2048 MiB": { memoryMib: 2048 },
  "memory of 8192 MiB": { memoryMib: 8192 },
  "2 vCPUs": { vcpus: 2 },
  "8 vCPUs": { vcpus: 8 },
} as const;

const rounds = Number(process.argv[2] ?? 10);
const milliseconds = new Map<string, number[]>(Object.keys(shapes).map((name) => [name, []]));
await using host = await startTestHost();
// Makes the template.
await host.worker.stopSandbox((await host.start()).id);
for (let round = 0; round < rounds; round += 1) {
  for (const [name, shape] of Object.entries(shapes)) {
    const watch = new Stopwatch();
    const { id } = await host.start(undefined, shape);
    milliseconds.get(name)?.push(watch.elapsed);
    await host.worker.stopSandbox(id);
  }
}
const own = median(milliseconds.get("the template's own") ?? []);
for (const [name, all] of milliseconds) {
  console.log(`${name.padEnd(20)} ${digits(median(all)).padStart(8)} ms  ${(median(all) / own).toFixed(2)}`);
}
