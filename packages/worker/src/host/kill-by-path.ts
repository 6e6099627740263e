import { readdir, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Where a process may name a path: its arguments, or the variables that it was started with. */
type Place = "cmdline" | "environ";

/**
 * Kills every process whose command line names a path below `directory` and waits until they are gone. It finds a
 * machine whose process id was never written down, and never another one: the directory is the machine's own.
 * @throws `unavailable` when one does not go away
 */
export async function killProcessesOf(directory: string, place: Place = "cmdline"): Promise<void> {
  // The kernel frees a killed QEMU's memory before it is gone; 10 s is far more than any machine has taken.
  const deadline = performance.now() + 10_000;
  for (;;) {
    const pids = await processesOf(directory, place);
    if (pids.length === 0) return;
    if (performance.now() > deadline) {
      throw new SandboxError("unavailable", `process ${pids.join(", ")} of ${directory} cannot be killed`);
    }
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It went by itself.
      }
    }
    await sleep(10);
  }
}

/** Every process whose command line names a path below `directory`. */
export async function processesOf(directory: string, place: Place = "cmdline"): Promise<number[]> {
  const text = `${directory}/`;
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    // A process that has ended meanwhile is none of interest.
    const words = await readFile(`/proc/${entry}/${place}`, "utf8").catch(() => "");
    if (words.includes(text)) found.push(Number(entry));
  }
  return found;
}
