import { mkdirSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CommandGroup } from "#exec/command-group.ts";
import type { CommandLimits, Memory } from "#system/system.ts";

const root = "/sys/fs/cgroup";
const sandbox = join(root, "sandbox");

/**
 * Processes and threads for each MiB of memory, as the kernel's own default (threads-max) has them. At least as many as
 * language servers and package managers need; at most what one user of a common distribution has.
 */
const pidsPerMib = 8;
const minPids = 4096;
const maxPids = 32_768;

/**
 * Share of the machine's memory for commands. The rest keeps the agent and the kernel alive when commands use all of
 * theirs.
 */
const memoryShare = 0.9;

interface Cgroup {
  readonly directory: string;
  readonly descriptor: number;
  /** Descriptor of the open list of its processes. */
  readonly members: number;
}

/**
 * Cgroups for commands, one each, below one that limits all of them together. Empty cgroups are used again: making one is
 * a large part of what a short command costs.
 */
export function commandCgroups(): () => CommandGroup {
  setUp();
  const empty: Cgroup[] = [];
  /** Cgroups of commands that have ended and left processes behind. */
  let inhabited: Cgroup[] = [];
  let made = 0;

  function take(): Cgroup {
    const ready = empty.pop();
    if (ready !== undefined) return ready;
    const emptied = inhabited.filter(isEmpty);
    inhabited = inhabited.filter((cgroup) => !emptied.includes(cgroup));
    empty.push(...emptied);
    return empty.pop() ?? make();
  }

  function make(): Cgroup {
    made += 1;
    // The process id distinguishes these cgroups from those of an earlier agent.
    const directory = join(sandbox, `${process.pid}-${made}`);
    mkdirSync(directory);
    return { directory, descriptor: openSync(directory, "r"), members: openSync(join(directory, "cgroup.procs"), "r") };
  }

  return () => {
    const cgroup = take();
    return {
      cgroup: cgroup.descriptor,
      kill: () => writeFileSync(join(cgroup.directory, "cgroup.kill"), "1"),
      release: () => {
        if (isEmpty(cgroup)) empty.push(cgroup);
        else inhabited.push(cgroup);
      },
    };
  };
}

const oneByte = Buffer.alloc(1);

function isEmpty({ members }: Cgroup): boolean {
  return readSync(members, oneByte, 0, 1, 0) === 0;
}

function setUp(): void {
  writeFileSync(join(root, "cgroup.subtree_control"), "+cpu +memory +pids");
  // Limits that an earlier agent has set stay.
  if (mkdirSync(sandbox, { recursive: true }) !== undefined)
    limitCommands({ memoryBytes: 0, cpuPercent: 0, maxPids: 0 });
  // Half of the default weight, so that the agent answers while commands use every processor.
  writeFileSync(join(sandbox, "cpu.weight"), "50");
}

/** Limits commands to their share of the memory that the machine has now. */
export function fitMemory(): Memory {
  limitMemory(0);
  return readMemory();
}

/** The period of a processor limit, the kernel's default. */
const periodMicroseconds = 100_000;

export function limitCommands(limits: CommandLimits): void {
  limitMemory(limits.memoryBytes);
  const quota = limits.cpuPercent === 0 ? "max" : String((limits.cpuPercent / 100) * periodMicroseconds);
  writeFileSync(join(sandbox, "cpu.max"), `${quota} ${periodMicroseconds}`);
  writeFileSync(join(sandbox, "pids.max"), String(limits.maxPids === 0 ? defaultPids() : limits.maxPids));
}

function defaultPids(): number {
  const mib = Math.floor(readMemory().total / 2 ** 20);
  return Math.min(maxPids, Math.max(minPids, mib * pidsPerMib));
}

/** @param bytes a further limit; 0 for none */
function limitMemory(bytes: number): void {
  const share = Math.floor((readMemory().total * memoryShare) / 4096) * 4096;
  writeFileSync(join(sandbox, "memory.max"), String(bytes === 0 ? share : Math.min(share, bytes)));
}

export function readMemory(): Memory {
  const text = readFileSync("/proc/meminfo", "latin1");
  // In KiB, see proc_meminfo(5).
  const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(text)?.[1]) * 1024;
  return { total: bytes("MemTotal"), available: bytes("MemAvailable"), needed: neededBytes() };
}

/** Memory that commands use, without the page cache and the kernel's caches. */
function neededBytes(): number {
  const text = readFileSync(join(sandbox, "memory.stat"), "latin1");
  const bytes = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
  const current = Number(readFileSync(join(sandbox, "memory.current"), "latin1"));
  return Math.max(0, current - bytes("inactive_file") - bytes("active_file") - bytes("slab_reclaimable"));
}
