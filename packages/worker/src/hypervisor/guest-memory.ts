import { readFile, realpath } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * Where a machine's memory is in its process. The pages of a guest are counted through its regions, one after the
 * other, wherever the process has them.
 */
export interface GuestMemory {
  readonly pid: number;
  /** The first one begins as the machine's base; all others begin as zeros. */
  readonly regions: readonly MemoryRegion[];
}

export interface MemoryRegion {
  /** Address of its first byte. */
  readonly start: number;
  readonly bytes: number;
}

/** Finds the private mapping of the file `base` in a process. @throws `unavailable` when it is not there whole */
export async function findMemory(pid: number, base: string, bytes: number): Promise<MemoryRegion> {
  const parts = mappingsOf(await readFile(`/proc/${pid}/maps`, "utf8"), await realpath(base));
  const [first] = parts;
  // The kernel keeps parts of one mapping apart when advice about them differs.
  const contiguous = parts.every((part, index) => index === 0 || part.start === parts[index - 1]?.end);
  const end = parts.at(-1)?.end ?? 0;
  if (first === undefined || !contiguous || end - first.start !== bytes) {
    throw new SandboxError("unavailable", `process ${pid} does not map ${bytes} bytes of ${base} in one piece`);
  }
  return { start: first.start, bytes };
}

function mappingsOf(maps: string, file: string): { readonly start: number; readonly end: number }[] {
  return maps
    .split("\n")
    .filter((line) => line.endsWith(` ${file}`))
    .map((line) => {
      // proc_pid_maps(5): the addresses come first, in hexadecimal.
      const [start = "", end = ""] = line.slice(0, line.indexOf(" ")).split("-");
      return { start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) };
    });
}
