import { readFile, realpath } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The location of a guest's memory in its process. Pages are numbered through all regions in order, independent of the
 * regions' addresses.
 */
export interface GuestMemory {
  readonly pid: number;
  /** Regions of the boot memory start as the machine's memory base; regions of hotplugged memory start as zeros. */
  readonly regions: readonly MemoryRegion[];
}

export interface MemoryRegion {
  /** The address of the region's first byte. */
  readonly start: number;
  readonly bytes: number;
  /** The region is hotplugged memory, which starts as zeros. */
  readonly hotplugged?: true;
}

/** Finds the private mapping of the file `base` in a process. @throws `unavailable` when it is missing or not in one piece */
export async function findMemory(pid: number, base: string, bytes: number): Promise<MemoryRegion> {
  const parts = await mappingsOf(pid, base);
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
  for (const pid of pids) {
    // A process that has ended meanwhile maps nothing.
    if ((await mappingsOf(pid, base).catch(() => [])).length > 0) return pid;
  }
  return undefined;
}

export interface Mapping {
  readonly start: number;
  readonly end: number;
  /** Where the mapping begins in the file. */
  readonly offset: number;
}

/** The mappings of the file `base` in a process, in the order of their addresses. */
export async function mappingsOf(pid: number, base: string): Promise<readonly Mapping[]> {
  const file = await realpath(base);
  return (await readFile(`/proc/${pid}/maps`, "utf8"))
    .split("\n")
    .filter((line) => line.endsWith(` ${file}`))
    .map((line) => {
      // proc_pid_maps(5): addresses, rights, offset, in hexadecimal.
      const [addresses = "", , offset = ""] = line.split(" ");
      const [start = "", end = ""] = addresses.split("-");
      return { start: Number.parseInt(start, 16), end: Number.parseInt(end, 16), offset: Number.parseInt(offset, 16) };
    });
}
