import { readdir, readFile } from "node:fs/promises";

/** The process ids of the QEMU machines that have their files below a directory. */
export async function machineProcesses(directory: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    // A process may have ended in the meantime.
    pids.map(async (pid) => [Number(pid), await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")] as const),
  );
  return lines.filter(([, line]) => line.includes("qemu-system") && line.includes(directory)).map(([pid]) => pid);
}
