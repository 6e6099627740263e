// Preloaded into a server that is started with --expose-gc. Measures how long the event loop's thread holds the loop, and
// reports on the socket OPENSANDBOX_TEST_PROBE: a connection that sends "measure" or "collect" gets one LoopReport.
import { openSync, readdirSync, readSync } from "node:fs";
import { createServer } from "node:net";

export interface LoopReport {
  /**
   * The most that the thread computed between two turns of the loop, in milliseconds of its own processor time. Other
   * processes on a busy host cannot raise it.
   */
  readonly maxComputationMs: number;
  /**
   * The longest time in milliseconds that the thread computed, or was blocked in system calls, between two turns of the
   * loop. Waiting for a processor or for events does not count.
   */
  readonly maxBlockMs: number;
  readonly heapBytes: number;
  readonly descriptors: number;
  /** Number of open handles and requests by type. */
  readonly resources: Readonly<Record<string, number>>;
}

const turnMs = 5;

// The main thread's time on a processor and time in wait for one, in nanoseconds: Documentation/scheduler/sched-stats.rst
// of Linux.
const schedule = openSync("/proc/self/schedstat", "r");
const buffer = Buffer.alloc(256);

let [maxComputationMs, maxBlockMs] = [0, 0];
let last = present();
setInterval(() => {
  const now = present();
  maxComputationMs = Math.max(maxComputationMs, now.computedMs - last.computedMs);
  maxBlockMs = Math.max(maxBlockMs, now.atMs - last.atMs - turnMs - (now.waitedMs - last.waitedMs));
  last = now;
}, turnMs).unref();

createServer((socket) => {
  socket.on("error", () => socket.destroy());
  socket.once("data", (chunk: Buffer) => {
    if (chunk.toString() === "collect") (globalThis as { gc?: () => void }).gc?.();
    socket.end(JSON.stringify(report()));
    [maxComputationMs, maxBlockMs] = [0, 0];
    // The report itself does not count.
    last = present();
  });
})
  .listen(process.env["OPENSANDBOX_TEST_PROBE"])
  .unref();

function present(): { readonly atMs: number; readonly computedMs: number; readonly waitedMs: number } {
  const { user, system } = process.threadCpuUsage();
  const [, waited = "0"] = buffer.toString("latin1", 0, readSync(schedule, buffer, 0, buffer.length, 0)).split(" ");
  return { atMs: performance.now(), computedMs: (user + system) / 1000, waitedMs: Number(waited) / 1e6 };
}

function report(): LoopReport {
  const resources: Record<string, number> = {};
  for (const type of process.getActiveResourcesInfo()) resources[type] = (resources[type] ?? 0) + 1;
  return {
    ...{ maxComputationMs, maxBlockMs, resources },
    heapBytes: process.memoryUsage().heapUsed,
    descriptors: readdirSync("/proc/self/fd").length,
  };
}
