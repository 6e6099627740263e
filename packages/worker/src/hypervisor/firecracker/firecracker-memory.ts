import { open, readFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type GuestMemory, type MemoryRegion, mappingsOf } from "../guest-memory.ts";
import type { VmSpec } from "../hypervisor.ts";

/** Guest memory below the devices' addresses, of x86: the rest of it is a second region, from 4 GiB on. */
const maxLowBytes = 3 * 2 ** 30;

/** Where Firecracker puts the table that leads a guest to its ACPI tables, in the guest's physical memory. */
const rsdp = { address: 0xe0000, signature: "RSD PTR " };

/** Finds the memory of a VM that was restored: private mappings of the file `spec.memoryBase`, in the file's order. */
export async function findRestoredMemory(pid: number, { memoryBase, memoryMib }: VmSpec): Promise<GuestMemory> {
  const found = await mappingsOf(pid, memoryBase);
  const regions = regionsOf(memoryMib).map(({ offset, bytes }) => {
    const parts = found.filter((part) => part.offset >= offset && part.offset < offset + bytes);
    const [first] = parts;
    // The kernel splits a mapping where madvise() differs.
    const isWhole = parts.every((part, index) => index === 0 || part.start === parts[index - 1]?.end);
    const end = parts.at(-1)?.end ?? 0;
    if (first === undefined || !isWhole || end - first.start !== bytes) throw notFound(pid);
    return { start: first.start, bytes };
  });
  return { pid, regions };
}

/**
 * Finds the memory of a VM that was booted: anonymous, so only its content tells it from other memory of the process.
 * The second region lies right below the first one.
 */
export async function findBootedMemory(pid: number, { memoryMib }: VmSpec): Promise<GuestMemory> {
  const [low, high] = regionsOf(memoryMib);
  if (low === undefined) throw notFound(pid);
  await using memory = await open(`/proc/${pid}/mem`, "r");
  const hasTable = async (start: number): Promise<boolean> => {
    const text = Buffer.alloc(rsdp.signature.length);
    // A page that is not mapped is not the guest's.
    await memory.read(text, 0, text.length, start + rsdp.address).catch(() => undefined);
    return text.toString("latin1") === rsdp.signature;
  };
  for (const { start, end } of anonymousMappings(await readFile(`/proc/${pid}/maps`, "utf8"))) {
    // The kernel joins neighbours, such as a thread's stack, into one mapping.
    const first = start + (high?.bytes ?? 0);
    for (let address = end - low.bytes; address >= first; address -= pageBytes) {
      if (!(await hasTable(address))) continue;
      const below: MemoryRegion[] = high === undefined ? [] : [{ start: address - high.bytes, bytes: high.bytes }];
      return { pid, regions: [{ start: address, bytes: low.bytes }, ...below] };
    }
  }
  throw notFound(pid);
}

const pageBytes = 4096;

/** The regions of the memory, by their places in its file. */
function regionsOf(memoryMib: number): readonly { readonly offset: number; readonly bytes: number }[] {
  const bytes = memoryMib * 2 ** 20;
  const low = Math.min(bytes, maxLowBytes);
  return [{ offset: 0, bytes: low }, ...(bytes > low ? [{ offset: low, bytes: bytes - low }] : [])];
}

/** Writable mappings without a file, of a text of proc_pid_maps(5). */
function anonymousMappings(maps: string): { readonly start: number; readonly end: number }[] {
  return maps.split("\n").flatMap((line) => {
    const [, start = "", end = ""] = /^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *$/.exec(line) ?? [];
    return start === "" ? [] : [{ start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) }];
  });
}

function notFound(pid: number): SandboxError {
  return new SandboxError("unavailable", `the guest's memory was not found in process ${pid}`);
}
