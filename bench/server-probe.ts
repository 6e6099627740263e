// Preloaded (`node --import`) into a server that the benchmark starts. Reports over the IPC channel what is invisible
// from outside, and ends the server with the benchmark.
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { ProbeReport } from "./ours/server.ts";

// The excess delay of a timer of this many milliseconds.
const resolution = 1;
const delay = monitorEventLoopDelay({ resolution });
let cpuSince = process.cpuUsage();
let since = performance.now();

process.on("message", (watches: "loop" | "processor") => {
  const { user, system } = process.cpuUsage(cpuSince);
  const now = performance.now();
  const report: ProbeReport = {
    cpuPercent: (user + system) / 10 / (now - since),
    loopP99Ms: Math.max(0, delay.percentile(99) / 1e6 - resolution),
    loopMaxMs: Math.max(0, delay.max / 1e6 - resolution),
    rssBytes: process.memoryUsage.rss(),
  };
  cpuSince = process.cpuUsage();
  since = now;
  // The timer fires every millisecond and takes 2 % of a processor, more than an idle server.
  delay.disable();
  delay.reset();
  if (watches === "loop") delay.enable();
  process.send?.(report);
});
process.once("disconnect", () => process.kill(process.pid, "SIGTERM"));
// The channel must not keep a finished server alive.
process.channel?.unref();
