import * as wire from "@opensandbox/wire/e2b/sandboxes.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { FastifyInstance } from "fastify";
import { startPrivateCommand } from "#execs/private-command.ts";
import { serve } from "#http/serve.ts";
import { type E2bContext, sandboxIdFrom, shownSandbox } from "../e2b-context.ts";

/** Measurements of one sandbox, oldest first, and the counters that the next one is compared with. */
interface History {
  readonly measured: wire.MetricReply[];
  counters?: Counters;
}

/** Processor time since the boot, in ticks. */
interface Counters {
  readonly busy: number;
  readonly all: number;
}

/** Measurements kept for a sandbox: two minutes for a client that asks twice a second. */
const maxMeasured = 240;
const maxSandboxes = 1000;
const measureMs = 10_000;
const maxOutput = 64 * 1024;

// One command reads everything: a process for each reading would cost more than the reading.
const measure = "cat /proc/stat /proc/meminfo; df -P -B1 / | tail -n 1";

/** Serves measurements of guests. A guest is measured when a client asks, never in advance. */
export function serveMetrics(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes } = context;
  const histories = new Map<SandboxId, History>();

  const historyOf = (id: SandboxId): History => {
    const history = histories.get(id) ?? { measured: [] };
    if (histories.size >= maxSandboxes && !histories.has(id)) histories.clear();
    histories.set(id, history);
    return history;
  };

  serve(app, sandboxes.shutdown.ending, wire.metrics, async ({ organizationId, parameter, query, signal }) => {
    const { sandbox } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    const history = historyOf(sandbox.id);
    // Looking at a sandbox neither wakes it nor keeps it awake.
    if (sandbox.state === "running" && sandboxes.placement.includes(sandbox.workerId)) {
      await add(context, { id: sandbox.id, history }, signal);
    }
    const { start = Number.NEGATIVE_INFINITY, end = Number.POSITIVE_INFINITY } = query;
    return history.measured.filter(({ timestampUnix }) => timestampUnix >= start && timestampUnix <= end);
  });
}

async function add(
  context: E2bContext,
  { id, history }: { readonly id: SandboxId; readonly history: History },
  signal: AbortSignal,
): Promise<void> {
  const { measured, counters } = await measureGuest(context, id, history.counters, signal);
  history.counters = counters;
  history.measured.push(measured);
  if (history.measured.length > maxMeasured) history.measured.shift();
}

/** Measures a running guest. */
export async function measureGuest(
  { sandboxes: { worker, clock } }: E2bContext,
  id: SandboxId,
  before: Counters | undefined,
  signal: AbortSignal,
): Promise<Measurement> {
  const command = { argv: ["/bin/sh", "-c", measure], user: "root", timeoutMs: measureMs } as const;
  const { output } = await startPrivateCommand(worker.guest(id).sessions, command, signal);
  let text = "";
  for await (const part of output) {
    if (part !== "scrollback end" && text.length < maxOutput) text += Buffer.from(part.bytes).toString("utf8");
  }
  return measurementOf(text, before, new Date(clock.now()));
}

interface Measurement {
  readonly measured: wire.MetricReply;
  readonly counters: Counters;
}

/**
 * Reads a measurement from the output of proc(5) and df(1). The load covers the time since the previous measurement, or
 * since the boot.
 */
export function measurementOf(text: string, before: Counters | undefined, now: Date): Measurement {
  const ticks = (/^cpu +(.*)$/m.exec(text)?.[1] ?? "").split(" ").map(Number);
  const [, , , idle = 0, waiting = 0] = ticks;
  // The last two columns, guest time, are already counted in the first two.
  const all = ticks.slice(0, 8).reduce((sum, value) => sum + value, 0);
  const counters = { all, busy: all - idle - waiting };
  const passed = all - (before?.all ?? 0);
  const busy = counters.busy - (before?.busy ?? 0);
  const memory = (name: string): number => 1024 * Number(new RegExp(`^${name}: +(\\d+) kB$`, "m").exec(text)?.[1] ?? 0);
  const [, diskTotal = "0", diskUsed = "0"] = (text.trim().split("\n").at(-1) ?? "").split(/ +/);
  const measured = {
    timestamp: now.toISOString(),
    timestampUnix: Math.floor(now.getTime() / 1000),
    cpuCount: [...text.matchAll(/^cpu\d+ /gm)].length,
    cpuUsedPct: passed <= 0 ? 0 : Math.round((1000 * busy) / passed) / 10,
    memTotal: memory("MemTotal"),
    memUsed: memory("MemTotal") - memory("MemAvailable"),
    memCache: memory("Cached"),
    diskUsed: Number(diskUsed),
    diskTotal: Number(diskTotal),
  };
  return { measured, counters };
}
