// Measures the pause of a checkpoint with a program in the guest that prints every millisecond: the longest silence is
// the pause. The guest's clock stops with the guest, so the host measures the time.
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { startCommand, startTestHost } from "../../packages/worker/src/testing/test-host.ts";

const never = new AbortController().signal;
const memories = [512, 4096];
const changes = [16, 256];
const checkpoints = 7;

const ticking = [
  "import sys, time",
  "while True:",
  " sys.stdout.write('.')",
  " sys.stdout.flush()",
  " time.sleep(0.001)",
].join("\n");

const changing = (mib: number): string =>
  `import os, time\nheld = [os.urandom(2**20) for _ in range(${mib})]\nopen('/dev/shm/changed', 'w').close()\ntime.sleep(1e6)`;

interface Figures {
  readonly memoryMib: number;
  readonly changedMib: number;
  readonly silentMs: number;
  readonly ordinaryMs: number;
  readonly pausedMs: number;
  readonly sizeMib: number;
}

const all: Figures[] = [];
for (const memoryMib of memories) for (const changedMib of changes) all.push(await measure(memoryMib, changedMib));

const row = (cells: readonly (string | number)[]): string => cells.map((cell) => String(cell).padStart(12)).join("");
process.stdout.write(
  `in milliseconds, the middle one of ${checkpoints} checkpoints\n` +
    `${row(["memory", "changed", "silence", "else", "told", "stored"])}\n` +
    all
      .map((figures) =>
        row([
          `${figures.memoryMib} MiB`,
          `${figures.changedMib} MiB`,
          ...[figures.silentMs, figures.ordinaryMs, figures.pausedMs].map((ms) => ms.toFixed(0)),
          `${figures.sizeMib.toFixed(0)} MiB`,
        ]),
      )
      .join("\n") +
    "\n",
);
for (const changedMib of changes) {
  const [small, large] = memories.map((memoryMib) =>
    all.find((figures) => figures.memoryMib === memoryMib && figures.changedMib === changedMib),
  );
  if (small === undefined || large === undefined) continue;
  const ratio = large.silentMs / small.silentMs;
  process.stdout.write(`${changedMib} MiB changed: ${memories.join(" against ")} MiB, ratio ${ratio.toFixed(2)}\n`);
}

async function measure(memoryMib: number, changedMib: number): Promise<Figures> {
  await using host = await startTestHost();
  const { id } = await host.start(undefined, { memoryMib });
  const script = Buffer.from(changing(changedMib)).toString("base64");
  await host.shell(
    id,
    `echo ${script} | base64 -d >/dev/shm/change.py; setsid python3 /dev/shm/change.py >/dev/null 2>&1 & ` +
      "until [ -e /dev/shm/changed ]; do sleep 0.2; done",
  );
  await using ticks = await listen(host.worker, id);
  const silences: number[] = [];
  const ordinary: number[] = [];
  const paused: number[] = [];
  let sizeBytes = 0;
  for (let checkpoint = 0; checkpoint < checkpoints; checkpoint += 1) {
    ordinary.push(await ticks.maxSilenceMs(() => new Promise((resolve) => setTimeout(resolve, 1000))));
    const snapshotId = newSnapshotId();
    silences.push(
      await ticks.maxSilenceMs(async () => {
        const request = { snapshotId, contents: "memory and disks" } as const;
        const captured = await host.worker.captureSandbox(id, request, never);
        paused.push(captured.pausedMs);
        sizeBytes = captured.sizeBytes;
      }),
    );
    await host.worker.removeSnapshot(snapshotId);
  }
  process.stderr.write(`${memoryMib} MiB, ${changedMib} MiB changed: done\n`);
  return {
    ...{ memoryMib, changedMib },
    silentMs: middle(silences),
    ordinaryMs: middle(ordinary),
    pausedMs: middle(paused),
    sizeMib: sizeBytes / 2 ** 20,
  };
}

interface Ticks extends AsyncDisposable {
  /** The longest time without output from the guest while `work` runs, in milliseconds. */
  maxSilenceMs(work: () => Promise<void>): Promise<number>;
}

async function listen(worker: Worker, id: SandboxId): Promise<Ticks> {
  const left = new AbortController();
  const exec = await startCommand(worker, id, { argv: ["python3", "-c", ticking] }, left.signal);
  let last = performance.now();
  let longest = 0;
  const first = Promise.withResolvers<void>();
  const listening = (async () => {
    for await (const _ of exec.output) {
      first.resolve();
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
    }
  })();
  listening.catch(first.reject);
  await within("the guest ticks", first.promise, 120_000);
  return {
    async maxSilenceMs(work) {
      longest = 0;
      await work();
      return longest;
    },
    async [Symbol.asyncDispose]() {
      left.abort();
      await Promise.allSettled([listening, exec.result]);
    },
  };
}

function middle(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}
