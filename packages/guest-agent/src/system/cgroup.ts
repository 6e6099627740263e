import { mkdirSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CommandGroup } from "#exec/command-group.ts";
import type { Memory } from "#system/system.ts";

const root = "/sys/fs/cgroup";
const sandbox = join(root, "sandbox");

/** Enough for language servers and package managers; a fork bomb ends here. */
const maxPids = 4096;

/** Of the machine's memory: the rest keeps the agent and the kernel alive when commands take all they can. */
const memoryShare = 0.9;

interface Cgroup {
  readonly directory: string;
  readonly descriptor: number;
  /** The list of its processes, open. */
  readonly members: number;
}

/**
 * The cgroups that commands are born in, one for each, below one that bounds them all together. A cgroup that has
 * emptied is used again: making one is a good part of what a short command costs.
 */
export function commandCgroups(): () => CommandGroup {
  setUp();
  const empty: Cgroup[] = [];
  /** Of commands that have ended and left something behind. */
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
    // An agent that is started again finds those of its predecessor, whose process id was another one.
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
  mkdirSync(sandbox, { recursive: true });
  writeFileSync(join(sandbox, "pids.max"), String(maxPids));
  fitMemory();
  // Half of the ordinary: the agent answers also when commands want every processor.
  writeFileSync(join(sandbox, "cpu.weight"), "50");
}

/** Bounds commands by the memory that the machine has now. */
export function fitMemory(): Memory {
  const memory = readMemory();
  writeFileSync(join(sandbox, "memory.max"), String(Math.floor((memory.total * memoryShare) / 4096) * 4096));
  return memory;
}

function readMemory(): Memory {
  const text = readFileSync("/proc/meminfo", "latin1");
  // In KiB, see proc_meminfo(5).
  const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(text)?.[1]) * 1024;
  return { total: bytes("MemTotal"), available: bytes("MemAvailable") };
}
