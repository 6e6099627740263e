import { readdirSync, readFileSync } from "node:fs";
import type { CommandGroup } from "#exec/command-group.ts";

interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
}

/**
 * Replaces cgroups in a fake machine: a command's processes are its session, and descendants whose parents still run. A
 * process that has left both is not found.
 */
export function processTrees(): { readonly take: () => CommandGroup; readonly killAll: () => void } {
  const leftBehind = new Set<number>();
  return {
    take: () => ({
      cgroup: undefined,
      kill: (leader) => killTrees(new Set([leader])),
      release: (leader) => {
        if (sessionLives(leader)) leftBehind.add(leader);
      },
    }),
    killAll: () => {
      const running = allProcesses().filter(({ parent }) => parent === process.pid);
      killTrees(new Set([...leftBehind, ...running.map(({ pid }) => pid)]));
    },
  };
}

function sessionLives(leader: number): boolean {
  try {
    process.kill(-leader, 0);
    return true;
  } catch {
    return false;
  }
}

function killTrees(leaders: ReadonlySet<number>): void {
  const doomed = new Set(leaders);
  const processes = allProcesses();
  for (;;) {
    const before = doomed.size;
    for (const { pid, parent, session } of processes) {
      if (leaders.has(session) || doomed.has(parent)) doomed.add(pid);
    }
    if (doomed.size === before) break;
  }
  for (const pid of doomed) kill(pid);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function allProcesses(): readonly Process[] {
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    const stat = Number.isInteger(pid) ? statOf(pid) : undefined;
    if (stat === undefined) return [];
    // proc_pid_stat(5): the name in brackets may hold anything, the fields after it are state, ppid, pgrp, session.
    const [, parent, , session] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return [{ pid, parent: Number(parent), session: Number(session) }];
  });
}

function statOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
}
