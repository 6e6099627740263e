import { readdir, readFile, realpath } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Where a process may name a path: its arguments, or its environment at the start. */
type Place = "cmdline" | "environ";

/** Names a machine's directory in the environment of the machine's process. No process of another kind has it. */
const machineVariable = "OPENSANDBOX_MACHINE_DIRECTORY";

/** The part of the environment by which {@link machineProcessesOf} recognizes the process of a machine. */
export function machineEnvironment(directory: string): Readonly<Record<string, string>> {
  return { [machineVariable]: directory };
}

/**
 * Kills the processes of the machine in `directory` and waits for their end. This finds a machine whose process id was
 * never recorded. A process that only names the directory, such as one that follows the machine's log, stays.
 * @throws `unavailable` when a process survives for 10 s
 */
export async function killMachineProcesses(directory: string): Promise<void> {
  await killAll(directory, () => machineProcessesOf(directory));
}

/**
 * Kills every process that names a path below `directory`, whatever it is, and waits for their end.
 * @throws `unavailable` when a process survives for 10 s
 */
export async function killProcessesOf(directory: string, place: Place = "cmdline"): Promise<void> {
  await killAll(directory, () => processesOf(directory, place));
}

async function killAll(directory: string, find: () => Promise<readonly number[]>): Promise<void> {
  // A killed QEMU stays until the kernel has freed its memory; 10 s is far more than any machine has taken.
  const deadline = performance.now() + 10_000;
  for (;;) {
    const pids = await find();
    if (pids.length === 0) return;
    if (performance.now() > deadline) {
      throw new SandboxError(
        "unavailable",
        `cannot kill process ${pids.join(", ")}, which uses ${directory}: it is still there 10 s after SIGKILL`,
      );
    }
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // The process has ended meanwhile.
      }
    }
    await sleep(10);
  }
}

/**
 * The processes of the machine in `directory`: those that name the directory on their command line, and were either
 * started with {@link machineEnvironment} or map one of the machine's files. Machines that earlier versions started have
 * no such environment, but map their memory base.
 */
export async function machineProcessesOf(directory: string): Promise<number[]> {
  const named = await processesOf(directory);
  if (named.length === 0) return [];
  const mapped = ` ${await realpath(directory).catch(() => directory)}/`;
  const found: number[] = [];
  for (const pid of named) {
    const environment = (await readProcessFile(pid, "environ")).split("\0");
    const isStartedFor = environment.includes(`${machineVariable}=${directory}`);
    if (isStartedFor || (await readProcessFile(pid, "maps")).includes(mapped)) found.push(pid);
  }
  return found;
}

/** Every process that names a path below `directory`. */
export async function processesOf(directory: string, place: Place = "cmdline"): Promise<number[]> {
  const text = `${directory}/`;
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    if ((await readProcessFile(Number(entry), place)).includes(text)) found.push(Number(entry));
  }
  return found;
}

/** Empty when the process has ended meanwhile, or when this user may not look at it. */
async function readProcessFile(pid: number, name: Place | "maps"): Promise<string> {
  return await readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "");
}
