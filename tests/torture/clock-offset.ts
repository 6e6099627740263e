import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { startCommand } from "../../packages/worker/src/testing/test-host.ts";

const never = new AbortController().signal;

export interface ClockOffset {
  /** How far the guest's clock is ahead of the host's, in milliseconds. */
  readonly aheadMs: number;
  /** The true offset is within this distance: half of the fastest round trip. */
  readonly withinMs: number;
}

/** Questions per measurement; the fastest answer is the most precise. */
const questions = 20;

const answering = "import sys, time\nfor _ in sys.stdin: print(time.time_ns(), flush=True)";

/** Asks the guest for its time as NTP does: half of the round trip is on either side. */
export async function clockOffset(worker: Worker, id: SandboxId): Promise<ClockOffset> {
  const command = { argv: ["python3", "-c", answering], stdin: true, timeoutMs: 120_000 } as const;
  const exec = await startCommand(worker, id, command, never);
  const lines = new PassThrough();
  const copying = (async () => {
    for await (const part of exec.output) if (part !== "scrollback end") lines.write(part.bytes);
    lines.end();
  })();
  const answers = createInterface({ input: lines })[Symbol.asyncIterator]();
  let best: ClockOffset = { aheadMs: Number.NaN, withinMs: Infinity };
  for (let question = 0; question < questions; question += 1) {
    const asked = now();
    await exec.write(Buffer.from("\n"));
    const { value } = await answers.next();
    const answered = now();
    const withinMs = (answered - asked) / 2;
    if (withinMs < best.withinMs)
      best = { aheadMs: Number(BigInt(String(value))) / 1e6 - (asked + answered) / 2, withinMs };
  }
  await exec.closeStdin();
  await copying;
  await exec.result;
  return best;
}

/** Milliseconds since 1970, with fractions. */
function now(): number {
  return performance.timeOrigin + performance.now();
}
