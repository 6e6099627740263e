import { readdir, readFile } from "node:fs/promises";

/** The process ids of the machines, of QEMU and of Firecracker, that have their files below a directory. */
export async function machineProcesses(directory: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    // A process may have ended in the meantime.
    pids.map(async (pid) => [Number(pid), await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")] as const),
  );
  const isMachine = (line: string): boolean => line.includes("qemu-system") || line.includes("\0--api-sock\0");
  return lines.filter(([, line]) => isMachine(line) && line.includes(directory)).map(([pid]) => pid);
}
