// Compares the transports of the agent channel: a round trip, and a file in each direction. Both machines run at the same
// time and the rounds alternate, so a busy host slows both. Usage: node bench/agent-transports.ts [rounds] [MB]
// (default 5 and 100; needs the image `minimal`). Without vsock it measures virtio-serial alone, and says so.
import { examineVsock } from "../packages/worker/src/host/examine-vsock.ts";
import { startTestHost, type TestHost } from "../packages/worker/src/testing/test-host.ts";
import { digits } from "./report/numbers.ts";
import { median } from "./statistics/quantile.ts";
import { Stopwatch } from "./stopwatch.ts";

const rounds = Number(process.argv[2] ?? 5);
const megabytes = Number(process.argv[3] ?? 100);
/** Calls in a row. A round keeps their median. */
const calls = 50;

const vsock = examineVsock();
if (!vsock.usable) process.stderr.write(`no vsock: ${vsock.reason}\n`);
const transports = vsock.usable ? (["virtio-serial", "vsock"] as const) : (["virtio-serial"] as const);
const never = new AbortController().signal;

type Figure = "round trip, ms" | "to the guest, MB/s" | "from the guest, MB/s";
const figures: readonly Figure[] = ["round trip, ms", "to the guest, MB/s", "from the guest, MB/s"];

await using undo = new AsyncDisposableStack();
const subjects = [];
for (const agentTransport of transports) {
  const host = undo.use(await startTestHost({ agentTransport }));
  const { id } = await host.start();
  subjects.push({ name: agentTransport, host, id, kept: new Map<Figure, number[]>() });
}
for (let round = 0; round <= rounds; round += 1) {
  for (const { host, id, kept } of subjects) {
    const measured = await measure(host.worker.guest(id));
    // The first round warms caches of both ends.
    if (round === 0) continue;
    for (const figure of figures) kept.set(figure, [...(kept.get(figure) ?? []), measured[figure]]);
  }
}
for (const figure of figures) {
  const row = subjects.map(({ name, kept }) => `${name} ${digits(median(kept.get(figure) ?? []))}`);
  process.stdout.write(`${figure}: ${row.join(", ")} (median of ${rounds})\n`);
}

async function measure({ files }: ReturnType<TestHost["worker"]["guest"]>): Promise<Record<Figure, number>> {
  const trips: number[] = [];
  for (let call = 0; call < calls; call += 1) {
    const watch = new Stopwatch();
    await files.stat("/", {}, never);
    trips.push(watch.elapsed);
  }
  const bytes = megabytes * 1e6;
  // In memory: a disk of the guest would be measured otherwise.
  const file = "/dev/shm/transfer";
  const up = new Stopwatch();
  await files.write(file, content(bytes), {}, never);
  const upMs = up.elapsed;
  const down = new Stopwatch();
  let read = 0;
  for await (const part of (await files.read(file, {}, never)).content) read += part.length;
  const downMs = down.elapsed;
  if (read !== bytes) throw new Error(`${read} of ${bytes} bytes came back`);
  await files.remove(file, never);
  const perSecond = (milliseconds: number): number => bytes / 1000 / milliseconds;
  return {
    "round trip, ms": median(trips),
    "to the guest, MB/s": perSecond(upMs),
    "from the guest, MB/s": perSecond(downMs),
  };
}

async function* content(bytes: number): AsyncGenerator<Uint8Array> {
  const part = Buffer.alloc(250_000, "OpenSandbox ");
  for (let sent = 0; sent < bytes; sent += part.length) yield part.subarray(0, Math.min(part.length, bytes - sent));
}
