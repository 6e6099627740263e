import { readFile, realpath } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The location of a guest's memory in its process. Pages are numbered through all regions in order, independent of the
 * regions' addresses.
 */
export interface GuestMemory {
  readonly pid: number;
  /** The first one starts as the machine's memory base; all others start as zeros. */
  readonly regions: readonly MemoryRegion[];
}

export interface MemoryRegion {
  /** Address of its first byte. */
  readonly start: number;
  readonly bytes: number;
}

/** Finds the private mapping of the file `base` in a process. @throws `unavailable` when it is missing or not in one piece */
export async function findMemory(pid: number, base: string, bytes: number): Promise<MemoryRegion> {
  const parts = mappingsOf(await readFile(`/proc/${pid}/maps`, "utf8"), await realpath(base));
  const [first] = parts;
  // The kernel splits a mapping where madvise() differs.
  const contiguous = parts.every((part, index) => index === 0 || part.start === parts[index - 1]?.end);
  const end = parts.at(-1)?.end ?? 0;
  if (first === undefined || !contiguous || end - first.start !== bytes) {
    throw new SandboxError("unavailable", `process ${pid} does not map ${bytes} bytes of ${base} in one piece`);
  }
  return { start: first.start, bytes };
}

/**
 * The process of `pids` that maps the file `base`. A process may name a machine's directory without being the machine,
 * such as one that follows its log.
 */
export async function processMapping(base: string, pids: readonly number[]): Promise<number | undefined> {
  const file = await realpath(base);
  for (const pid of pids) {
    // A process that has ended meanwhile maps nothing.
    const maps = await readFile(`/proc/${pid}/maps`, "utf8").catch(() => "");
    if (mappingsOf(maps, file).length > 0) return pid;
  }
  return undefined;
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
