import { readdir, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Where a process may name a path: its arguments, or its environment at the start. */
type Place = "cmdline" | "environ";

/**
 * Kills every process whose command line names a path below `directory` and waits for their end. This finds a machine
 * whose process id was never recorded, and no other machine, since each has a directory of its own.
 * @throws `unavailable` when a process survives for 10 s
 */
export async function killProcessesOf(directory: string, place: Place = "cmdline"): Promise<void> {
  // A killed QEMU stays until the kernel has freed its memory; 10 s is far more than any machine has taken.
  const deadline = performance.now() + 10_000;
  for (;;) {
    const pids = await processesOf(directory, place);
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
        // It has ended meanwhile.
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
    // A process that has ended meanwhile does not count.
    const words = await readFile(`/proc/${entry}/${place}`, "utf8").catch(() => "");
    if (words.includes(text)) found.push(Number(entry));
  }
  return found;
}
