// A program that uses cgroups as a worker does, on the host or in a guest, and prints the facts that a test checks.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Cgroups, cgroupsOf } from "../cgroups/cgroups.ts";
import { findCgroups } from "../cgroups/find-cgroups.ts";
import { inCgroups } from "../cgroups/in-cgroups.ts";
import { protectFromOutOfMemory } from "../oom-score.ts";

const mib = 2 ** 20;
const found = await findCgroups();
if (!("missing" in found)) throw new Error(`no cgroups: ${found.reason}`);
const cgroups = await Cgroups.open(found, "/data");
const limits = { memoryBytes: 32 * mib, cpuWeight: 200, ioWeight: 300, maxTasks: 20 };
const cgroup = await cgroups.create("m-1", limits);

async function run(script: string): Promise<{ readonly output: string; readonly code: number | null }> {
  const [program, ...args] = inCgroups(cgroup.entrances, 500, ["sh", "-c", script]);
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  await once(child, "close");
  return { output: output.trim(), code: child.exitCode };
}

const read = (file: string): string | undefined => {
  for (const entrance of cgroup.entrances) {
    try {
      return readFileSync(join(entrance, "..", file), "utf8").trim();
    } catch {
      // Another hierarchy has it, or none.
    }
  }
  return undefined;
};

const membership = (await run("cat /proc/self/cgroup")).output;
const values = {
  memory: read("memory.max"),
  weight: read("cpu.weight"),
  tasks: read("pids.max"),
  io: read("io.weight"),
};
const killed = await run("head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null; echo $?");
const usage = await cgroup.usage();
await cgroup.setLimits({ cpuPercent: 150, memoryBytes: 300 * mib });
const live = { quota: read("cpu.max"), memory: read("memory.max") };
const survived = await run("head -c 50000000 /dev/zero | tail -c 50000000 >/dev/null; echo $?");
const forks = await run("for i in $(seq 30); do sleep 0.2 & done 2>&1; true");

// Another worker of the same data directory takes over the process, and removes what is left.
const child = spawn(...asSpawn(inCgroups(cgroup.entrances, 500, ["sh", "-c", "echo in; exec sleep 60"])));
await once(child.stdout!, "data");
await cgroups.create("m-2", {});
const next = await Cgroups.open(found, "/data");
const adopted = await next.adopt("m-1", child.pid!, {});
const removed = await next.removeLeftOver((name) => name === "m-1");
child.kill("SIGKILL");
await adopted[Symbol.asyncDispose]();
const left = [...(await cgroupsOf("/data", found.hierarchies)).keys()];
await next.close();

const isProtected = protectFromOutOfMemory();
const score = readFileSync("/proc/self/oom_score_adj", "utf8").trim();
const own = readFileSync("/proc/self/cgroup", "utf8").trim();
const { hierarchies, missing } = found;
console.log(
  JSON.stringify({
    ...{ hierarchies, missing, own, membership, values, live, usage, removed, left, isProtected, score },
    ...{ killed: killed.output, survived: survived.output, forks: forks.output },
  }),
);

function asSpawn([program, ...args]: [string, ...string[]]) {
  return [program, args, { stdio: ["ignore", "pipe", "inherit"] as ("ignore" | "pipe" | "inherit")[] }] as const;
}
