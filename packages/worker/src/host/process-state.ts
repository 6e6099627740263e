import { readFileSync } from "node:fs";

export interface ProcessState {
  /** Whether a signal has stopped the whole process. */
  readonly isStopped: boolean;
  /** Processor time of all its threads, in milliseconds. */
  readonly busyMs: number;
  /** When it started, in clock ticks since the boot of the host: tells it from a later process with the same number. */
  readonly startedAt: number;
}

/** The kernel's clock ticks in a second, sysconf(_SC_CLK_TCK), which is 100 on x86-64. */
const tickMs = 10;

/** Undefined: the process has ended. */
export function processState(pid: number): ProcessState | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // proc_pid_stat(5): from the state, which is field 3, after the name in parentheses. Fields 14 and 15 count ticks,
  // and field 22 is the start.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const busyTicks = Number(fields[14 - 3]) + Number(fields[15 - 3]);
  return { isStopped: fields[0] === "T", busyMs: busyTicks * tickMs, startedAt: Number(fields[22 - 3]) };
}
